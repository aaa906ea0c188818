import tls from 'node:tls'
import { Wait } from 'testcontainers'
import { removeContainers, whileStarting } from '../../hosts/cleanup.ts'
import { loopbackContainer } from '../../hosts/loopback.ts'
import { optionalStoreImage } from './images.ts'

// Lowkey Vault, where its image can be pulled: a Key Vault by others, with the token endpoint of a managed identity. It
// takes any token and knows no roles. Never run where this was written (docs/testing.md): azure-stub.ts stands in there.

export type LowkeyVault = {
  vaultUrl: string
  /** PEM, as it was shown. */
  certificate: string
  /** For IDENTITY_ENDPOINT. */
  identityEndpoint: string
  stop(): Promise<void>
}

const [VAULT_PORT, TOKEN_PORT] = [8443, 8080]

export const hasLowkeyVault = (): boolean => optionalStoreImage('lowkeyVault') !== undefined

export const startLowkeyVault = async (): Promise<LowkeyVault> => {
  const container = await whileStarting(() =>
    loopbackContainer(optionalStoreImage('lowkeyVault') ?? '')
      .withExposedPorts(VAULT_PORT, TOKEN_PORT)
      .withEnvironment({ LOWKEY_ARGS: `--server.port=${VAULT_PORT} --LOWKEY_VAULT_RELAXED_PORTS=true` })
      .withWaitStrategy(Wait.forLogMessage(/Started LowkeyVaultApp/))
      .withStartupTimeout(60_000)
      .start(),
  )
  const port = container.getMappedPort(VAULT_PORT)
  return {
    vaultUrl: `https://127.0.0.1:${port}`,
    certificate: await certificateAt(port),
    identityEndpoint: `http://127.0.0.1:${container.getMappedPort(TOKEN_PORT)}/metadata/identity/oauth2/token`,
    stop: () => removeContainers([container.getId()]),
  }
}

/** It makes its own; nobody is asked for anything in this connection. */
const certificateAt = (port: number): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false }, () => {
      const lines =
        socket
          .getPeerCertificate()
          .raw.toString('base64')
          .match(/.{1,64}/g) ?? []
      resolve(['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n'))
      socket.destroy()
    })
    socket.on('error', reject)
  })
