import { readFileSync } from 'node:fs'
import { type Dispatcher, EnvHttpProxyAgent } from 'undici'
import { type Environment, proxyOf } from '../secrets/network.ts'

/** PEM files of the certificate that the connector shows a control plane that asks for one. */
export interface ClientCertificate {
  readonly certFile: string
  readonly keyFile: string
}

export interface WayOptions {
  readonly environment: Environment
  readonly clientCertificate: ClientCertificate | null
  /** For connecting, milliseconds. */
  readonly connectMs: number
}

/** The way to the control plane: its connections, and what they are made by. */
export interface Way {
  dispatcher(): Dispatcher
  /** A call failed on the way: what was renewed on disk meanwhile is read again. */
  failed(): void
  /** Drops all connections. */
  close(): Promise<void>
}

interface Pair {
  readonly cert: string
  readonly key: string
}

const readPair = ({ certFile, keyFile }: ClientCertificate): Pair => ({
  cert: readFileSync(certFile, 'utf8'),
  key: readFileSync(keyFile, 'utf8'),
})

/**
 * Through the proxy that `HTTPS_PROXY` and `NO_PROXY` name (never to this very machine), trusting what Node.js trusts
 * (`NODE_EXTRA_CA_CERTS`). The certificate is renewed on disk by whoever issued it: a refused one is read again, and nothing
 * needs a restart.
 */
export const createWay = ({ environment, clientCertificate, connectMs }: WayOptions): Way => {
  const { http, https, none } = proxyOf(environment)

  const open = (pair: Pair | null): Dispatcher => {
    const tls = { timeout: connectMs, ...pair }
    return new EnvHttpProxyAgent({
      httpProxy: http ?? '',
      httpsProxy: https ?? '',
      noProxy: none,
      connect: tls,
      requestTls: tls,
      keepAliveTimeout: 30_000,
    })
  }

  let pair = clientCertificate === null ? null : readPair(clientCertificate)
  let dispatcher = open(pair)

  const renewedPair = (): Pair | null => {
    if (clientCertificate === null) return null
    try {
      const now = readPair(clientCertificate)
      return now.cert === pair?.cert && now.key === pair.key ? null : now
    } catch {
      // Half way through being renewed: the next failure looks again.
      return null
    }
  }

  return {
    dispatcher: () => dispatcher,
    failed: () => {
      const renewed = renewedPair()
      if (renewed === null) return
      const former = dispatcher
      pair = renewed
      dispatcher = open(renewed)
      // What is under way may end as it began.
      former.close().catch(() => undefined)
    },
    close: () => dispatcher.destroy(),
  }
}
