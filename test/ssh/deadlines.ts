import type { SshDeadlines } from '../../src/ssh/session.ts'

/** Long enough for a busy machine, short enough for a test that runs into one of them. */
export const DEADLINES: SshDeadlines = {
  tcpMs: 3000,
  handshakeMs: 5000,
  loginMs: 5000,
  channelMs: 3000,
  silenceMs: 20_000,
  keepaliveMs: 10_000,
}
