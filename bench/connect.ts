import { systemClock } from '../src/observability/clock.ts'
import { openPrivateKey } from '../src/secrets/private-key.ts'
import { secretOf } from '../src/secrets/secret.ts'
import { hostKeyRules } from '../src/ssh/host-keys.ts'
import { connectSsh, type SshSession } from '../src/ssh/session.ts'
import type { TestHost } from '../test/hosts/hosts.ts'

export const DEADLINES = {
  tcpMs: 10_000,
  handshakeMs: 15_000,
  loginMs: 15_000,
  channelMs: 10_000,
  silenceMs: 60_000,
  keepaliveMs: 2500,
}

const neverEncrypted = { open: () => Promise.reject(new Error('encrypted')) }

/** The product's own connection to a test host, host keys pinned. */
export const connect = async (host: TestHost): Promise<SshSession> =>
  await connectSsh(
    { host: host.address, port: host.port, user: host.user, addresses: [{ address: host.address, family: 4 }] },
    [await openPrivateKey({ privateKey: secretOf(host.connectorKey) }, neverEncrypted)],
    hostKeyRules({ host: host.address, port: host.port, hostKeys: host.hostKeys }, 'pinned', null),
    { clock: systemClock, deadlines: DEADLINES },
  )

/** Does something over a new connection. That the connection closes afterwards is waited for by nobody. */
export const overNewConnection = async (host: TestHost, run: (link: SshSession) => Promise<unknown>): Promise<void> => {
  const session = await connect(host)
  await run(session)
  session.close().catch(() => undefined)
}
