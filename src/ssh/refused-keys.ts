import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'

/**
 * Keys that a server refused. Newer sshd bans an address that offers refused keys (PerSourcePenalties), and with it
 * everybody behind it, so one is offered once: the next attempt comes when the secret's version has changed, or when a
 * person asks for it. Only the end of access tries by itself, every ten minutes: the server may have been mended meanwhile,
 * and whoever is to leave may have broken it for a moment.
 */
export interface RefusedKeys {
  /** Throws `ssh_auth_failed` for a version of a secret that this server has refused. */
  check(server: string, keyVersion: string, facts: ErrorFacts, who: Offer): void
  remember(server: string, keyVersion: string): void
  forget(server: string): void
}

export type Offer = 'job' | 'end_of_access' | 'person'

export const END_TRIES_AFTER_MS = 600_000

/** A fleet that lost its key altogether is remembered whole. */
const MOST_SERVERS = 20_000

export const createRefusedKeys = (clock: Clock): RefusedKeys => {
  const refused = new Map<string, { readonly keyVersion: string; readonly at: number }>()
  return {
    check: (server, keyVersion, facts, who) => {
      const found = refused.get(server)
      if (found?.keyVersion !== keyVersion || who === 'person') return
      if (who === 'end_of_access' && clock.monotonic() - found.at >= END_TRIES_AFTER_MS) return
      throw new JobError(
        'ssh_auth_failed',
        'the server refused this key before; it is not offered again until the secret changes or somebody refreshes the integration',
        facts,
      )
    },
    remember: (server, keyVersion) => {
      refused.delete(server)
      refused.set(server, { keyVersion, at: clock.monotonic() })
      const [oldest] = refused.keys()
      if (refused.size > MOST_SERVERS && oldest !== undefined) refused.delete(oldest)
    },
    forget: (server) => void refused.delete(server),
  }
}
