import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { Clock } from '../observability/clock.ts'
import type { LoginKey } from '../secrets/private-key.ts'

/**
 * Keys that a server refused, and nothing else with them: a login that failed. Newer sshd bans an address that offers
 * refused keys (PerSourcePenalties), and with it everybody behind it, so one is offered once: the next attempt comes when
 * the secret's version has changed, or when a person asks for it. Only the end of access tries by itself, every ten minutes:
 * the server may have been mended meanwhile, and whoever is to leave may have broken it for a moment. A key that a server
 * only hung up at is offered again after as long by any job.
 */
export interface RefusedKeys {
  /**
   * Those of a secret's keys that may be offered, in the order given. Throws `ssh_auth_failed` where this server has refused
   * all that this version of the secret has.
   */
  offerable(server: string, keys: OfferedKeys, facts: ErrorFacts, who: Offer): readonly LoginKey[]
  remember(server: string, keyVersion: string, said: ReadonlyMap<string, Said>): void
  forget(server: string): void
}

export interface OfferedKeys {
  readonly version: string
  readonly keys: readonly LoginKey[]
}

export type Offer = 'job' | 'end_of_access' | 'person'

export const TRIES_AFTER_MS = 600_000

/** A fleet that lost its key altogether is remembered whole. */
const MOST_SERVERS = 20_000

/** `hung_up`: the server ended the connection at the key, which may have been trouble of its own. */
export type Said = 'refused' | 'hung_up'

interface Refused {
  readonly keyVersion: string
  /** Each with whether it was said, or only shown by the end of the connection. */
  readonly fingerprints: ReadonlyMap<string, Said>
  readonly at: number
}

const refusedBefore = (keys: readonly LoginKey[]): string =>
  keys.length === 1
    ? 'the server refused this key before; it is not offered again until the secret changes or somebody refreshes the integration'
    : 'the server refused these keys before; they are not offered again until the secret changes or somebody refreshes the integration'

export const createRefusedKeys = (clock: Clock): RefusedKeys => {
  const refused = new Map<string, Refused>()

  const find = (server: string, keyVersion: string): Refused | undefined => {
    const found = refused.get(server)
    return found?.keyVersion === keyVersion ? found : undefined
  }

  return {
    offerable: (server, { version, keys }, facts, who) => {
      const found = find(server, version)
      if (found === undefined || who === 'person') return keys
      const isLongAgo = clock.monotonic() - found.at >= TRIES_AFTER_MS
      if (who === 'end_of_access' && isLongAgo) return keys
      const mayOffer = (said: Said | undefined): boolean => said === undefined || (said === 'hung_up' && isLongAgo)
      const left = keys.filter(({ fingerprint }) => mayOffer(found.fingerprints.get(fingerprint)))
      if (left.length === 0) throw new JobError('ssh_auth_failed', refusedBefore(keys), facts)
      return left
    },
    remember: (server, keyVersion, said) => {
      const before = find(server, keyVersion)?.fingerprints ?? []
      refused.delete(server)
      refused.set(server, { keyVersion, fingerprints: new Map([...before, ...said]), at: clock.monotonic() })
      const [oldest] = refused.keys()
      if (refused.size > MOST_SERVERS && oldest !== undefined) refused.delete(oldest)
    },
    forget: (server) => void refused.delete(server),
  }
}
