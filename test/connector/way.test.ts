import { renameSync, writeFileSync } from 'node:fs'
import https from 'node:https'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import tls, { type TLSSocket } from 'node:tls'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type ApiClientOptions, createApiClient } from '../../src/connector/api-client.ts'
import { createTokenSource } from '../../src/connector/token.ts'
import { DEFAULT_KNOBS } from '../../src/protocol/calls.ts'
import { secretOf } from '../../src/secrets/secret.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type Certificate, selfSigned } from '../secrets/stores/certificates.ts'
import { startConnectProxy } from '../secrets/stores/connect-proxy.ts'
import { configOf, REGISTER } from './setup.ts'

// The way from a connector to its control plane, through what companies put on it: real TLS, a real proxy.

const NAME = 'control.test.invalid'

const trust = (...certificates: readonly Certificate[]): void => {
  const before = tls.getCACertificates('default')
  tls.setDefaultCACertificates([...before, ...certificates.map(({ cert }) => cert)])
  onTestFinished(() => tls.setDefaultCACertificates(before))
}

/** Answers a registration, and remembers whom it was shown a certificate of. */
const startControlPlane = async (options: https.ServerOptions) => {
  const shown: string[] = []
  const server = https.createServer(options, (request, response) => {
    shown.push(String((request.socket as TLSSocket).getPeerCertificate().subject?.CN ?? 'nobody'))
    const answer = { serverTime: new Date().toISOString(), protocol: 1, controlPlaneId: 'cp', knobs: DEFAULT_KNOBS }
    request.resume()
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(answer))
  })
  server.on('tlsClientError', () => undefined)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void [server.close(), server.closeAllConnections()])
  return { port: (server.address() as AddressInfo).port, shown }
}

const clientOf = (url: string, options: Partial<ApiClientOptions>) => {
  const token = createTokenSource({ kind: 'value', token: secretOf('t') })
  const api = createApiClient({ url, token, environment: {}, clientCertificate: null, timeoutMs: 3000, ...options })
  onTestFinished(() => api.close())
  return { register: () => api.register(REGISTER, AbortSignal.timeout(5000)) }
}

const asFiles = ({ cert, key }: Certificate) => {
  const folder = scratchDirectory()
  const [certFile, keyFile] = [path.join(folder, 'cert.pem'), path.join(folder, 'key.pem')]
  const write = (pair: Certificate): void => {
    for (const [file, text] of [
      [certFile, pair.cert],
      [keyFile, pair.key],
    ] as const) {
      writeFileSync(`${file}.new`, text)
      renameSync(`${file}.new`, file)
    }
  }
  write({ cert, key })
  return { certFile, keyFile, write }
}

describe('the way to the control plane', () => {
  test('goes through the proxy, and believes an authority of one’s own', async () => {
    const certificate = await selfSigned({ names: [NAME] })
    const { port } = await startControlPlane({ ...certificate })
    const proxy = await startConnectProxy({ [NAME]: port })
    onTestFinished(() => proxy.close())
    const { register } = clientOf(`https://${NAME}`, { environment: { HTTPS_PROXY: proxy.url } })
    await expect(register()).rejects.toMatchObject({ kind: 'unreachable' })
    trust(certificate)
    await expect(register()).resolves.toMatchObject({ controlPlaneId: 'cp' })
    expect(new Set(proxy.asked())).toEqual(new Set([`${NAME}:443`]))
    const direct = clientOf(`https://${NAME}`, { environment: { HTTPS_PROXY: proxy.url, NO_PROXY: '.test.invalid' } })
    const before = proxy.asked().length
    await expect(direct.register()).rejects.toMatchObject({ kind: 'unreachable' })
    expect(proxy.asked()).toHaveLength(before)
  })

  test.each([false, true])('shows its certificate to who asks for one (through a proxy: %s)', async (isProxied) => {
    const [certificate, own] = [await selfSigned({ names: [NAME, '127.0.0.1'] }), await selfSigned()]
    const { port, shown } = await startControlPlane({ ...certificate, ca: own.cert, requestCert: true })
    trust(certificate)
    const proxy = await startConnectProxy({ [NAME]: port })
    onTestFinished(() => proxy.close())
    const url = isProxied ? `https://${NAME}` : `https://127.0.0.1:${port}`
    const environment = { HTTPS_PROXY: proxy.url }
    await expect(clientOf(url, { environment }).register()).rejects.toMatchObject({ kind: 'unreachable' })
    const { certFile, keyFile } = asFiles(own)
    await clientOf(url, { environment, clientCertificate: { certFile, keyFile } }).register()
    expect(shown).toHaveLength(1)
    expect(shown[0]).not.toBe('nobody')
  })

  test('reads a certificate again that was renewed on disk, when the one it has is refused', async () => {
    const [certificate, old, renewed] = [
      await selfSigned({ names: ['127.0.0.1'] }),
      await selfSigned(),
      await selfSigned(),
    ]
    const { port } = await startControlPlane({ ...certificate, ca: renewed.cert, requestCert: true })
    trust(certificate)
    const { certFile, keyFile, write } = asFiles(old)
    const { register } = clientOf(`https://127.0.0.1:${port}`, { clientCertificate: { certFile, keyFile } })
    await expect(register()).rejects.toMatchObject({ kind: 'unreachable' })
    write(renewed)
    await expect(register()).rejects.toMatchObject({ kind: 'unreachable' })
    await expect(register()).resolves.toMatchObject({ controlPlaneId: 'cp' })
  })
})

describe('the configuration of a client certificate', () => {
  const read = (environment: Record<string, string>) => () =>
    configOf({ APONO_URL: 'https://x.example', ...environment })

  test('is a pair that belongs together, or none', async () => {
    const [one, other] = [asFiles(await selfSigned()), asFiles(await selfSigned())]
    const pair = { APONO_CLIENT_CERT_FILE: one.certFile, APONO_CLIENT_KEY_FILE: one.keyFile }
    expect(read(pair)().clientCertificate).toEqual({ certFile: one.certFile, keyFile: one.keyFile })
    expect(read({})().clientCertificate).toBeNull()
    expect(read({ APONO_CLIENT_CERT_FILE: one.certFile })).toThrow(/set both, or neither/)
    expect(read({ ...pair, APONO_CLIENT_KEY_FILE: other.keyFile })).toThrow(/no certificate with its key/)
    expect(read({ ...pair, APONO_CLIENT_KEY_FILE: '/nowhere' })).toThrow(/ENOENT/)
  })
})
