import { type ErrorFacts, JobError } from '../host/errors.ts'

/**
 * Keys that a server refused. Newer sshd bans an address that offers refused keys (PerSourcePenalties), and with it
 * everybody behind it, so one is offered once: the next attempt comes when the secret's version has changed.
 */
export interface RefusedKeys {
  /** Throws `ssh_auth_failed` for a version of a secret that this server has refused. */
  check(server: string, keyVersion: string, facts: ErrorFacts): void
  remember(server: string, keyVersion: string): void
  forget(server: string): void
}

/** A fleet that lost its key altogether is remembered whole. */
const MOST_SERVERS = 20_000

export const createRefusedKeys = (): RefusedKeys => {
  const refused = new Map<string, string>()
  return {
    check: (server, keyVersion, facts) => {
      if (refused.get(server) !== keyVersion) return
      throw new JobError(
        'ssh_auth_failed',
        'the server refused this key before; it is not offered again until the secret changes',
        facts,
      )
    },
    remember: (server, keyVersion) => {
      refused.delete(server)
      refused.set(server, keyVersion)
      const [oldest] = refused.keys()
      if (refused.size > MOST_SERVERS && oldest !== undefined) refused.delete(oldest)
    },
    forget: (server) => void refused.delete(server),
  }
}
