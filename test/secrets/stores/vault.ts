import { randomUUID } from 'node:crypto'
import { Wait } from 'testcontainers'
import { removeContainers, whileStarting } from '../../hosts/cleanup.ts'
import { runCommand } from '../../hosts/command.ts'
import { loopbackContainer } from '../../hosts/loopback.ts'

// HashiCorp Vault as a development server: unsealed, in memory, the KV engine of version 2 at `secret/`; policies, tokens,
// and the ways in approle, jwt, kubernetes and userpass. Only where its image is: `sh docker/base-images.sh
// hashicorp/vault:1.21.4` pulls it, or makes it, which takes a quarter of an hour.

export const VAULT = 'hashicorp/vault:1.21.4'

export type Vault = {
  endpoint: string
  rootToken: string
  stop(): Promise<void>
}

/** Null where the image is not: the tests that need it are then skipped, and say so. */
export const vaultImage = async (): Promise<string | null> => {
  for (const name of [VAULT, `apono-local/${VAULT}`]) {
    if ((await runCommand('docker', ['image', 'inspect', name])).code === 0) return name
  }
  return null
}

export const startVault = async (image: string): Promise<Vault> => {
  const rootToken = randomUUID()
  const container = await whileStarting(() =>
    loopbackContainer(image)
      .withCommand(['server', '-dev'])
      .withEnvironment({
        VAULT_DEV_ROOT_TOKEN_ID: rootToken,
        VAULT_DEV_LISTEN_ADDRESS: '0.0.0.0:8200',
        // It would lock its memory, and may not.
        VAULT_DISABLE_MLOCK: 'true',
        SKIP_SETCAP: 'true',
      })
      .withExposedPorts(8200)
      .withWaitStrategy(Wait.forHttp('/v1/sys/health', 8200))
      .withStartupTimeout(60_000)
      .start(),
  )
  return {
    endpoint: `http://127.0.0.1:${container.getMappedPort(8200)}`,
    rootToken,
    stop: () => removeContainers([container.getId()]),
  }
}

export type VaultInput = { path: string; data: Readonly<Record<string, string>> }

/** Makes the secret, or a new version of it; gives the version. */
export const putSecret = async (vault: Vault, { path, data }: VaultInput): Promise<number> => {
  const answer = await vaultRequest(vault, 'POST', `secret/data/${path}`, { data })
  return (answer as { data: { version: number } }).data.version
}

/** A token of these policies (none: of root's), for an hour unless told otherwise. */
export const newToken = async (vault: Vault, policies: readonly string[], ttl = '1h'): Promise<string> => {
  const answer = await vaultRequest(vault, 'POST', 'auth/token/create', { policies, ttl })
  return (answer as { auth: { client_token: string } }).auth.client_token
}

/** Anything of its API, as root unless told otherwise: policies, auth methods, tokens. */
export const vaultRequest = async (
  { endpoint, rootToken }: Vault,
  method: string,
  path: string,
  body?: unknown,
  token = rootToken,
): Promise<unknown> => {
  const response = await fetch(`${endpoint}/v1/${path}`, {
    method,
    headers: { 'X-Vault-Token': token, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`vault answered ${response.status}: ${text}`)
  return text === '' ? undefined : JSON.parse(text)
}
