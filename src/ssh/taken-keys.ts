import type { LoginKey } from '../secrets/private-key.ts'

/**
 * Which of a secret's two keys a server takes, from logins that went well. The one that it took last is offered first, so
 * that a job costs it no refusal; of a server that nothing is known of, the current one, so that nothing ever depends on the
 * next one being there.
 *
 * A server that ends the connection at a refused key (sshd with `MaxAuthTries 1`) makes a failed login of what costs others
 * nothing, so whoever only wants to know whether the next one is taken by now asks it once for each version of the secret.
 */
export interface TakenKeys {
  /** `nextFirst`: to find out about the next key; `job` leaves a server alone that hung up at it before. */
  order(server: string, keyVersion: string, keys: readonly LoginKey[], nextFirst: NextFirst): readonly LoginKey[]
  took(server: string, fingerprint: string): void
  hungUpAt(server: string, keyVersion: string, fingerprint: string): void
}

export type NextFirst = 'no' | 'job' | 'person'

/** A fleet is remembered whole; what is forgotten costs a refusal. */
const MOST_SERVERS = 20_000

interface Known {
  readonly taken: string | null
  /** Version of the secret and fingerprint. */
  readonly hungUpAt: string | null
}

const first = (fingerprint: string | undefined, keys: readonly LoginKey[]): readonly LoginKey[] =>
  keys.toSorted((a, b) => Number(b.fingerprint === fingerprint) - Number(a.fingerprint === fingerprint))

const nameOf = (keyVersion: string, fingerprint: string): string => `${keyVersion} ${fingerprint}`

export const createTakenKeys = (): TakenKeys => {
  const known = new Map<string, Known>()

  const learn = (server: string, news: Partial<Known>): void => {
    const before = known.get(server) ?? { taken: null, hungUpAt: null }
    known.delete(server)
    known.set(server, { ...before, ...news })
    const [oldest] = known.keys()
    if (known.size > MOST_SERVERS && oldest !== undefined) known.delete(oldest)
  }

  return {
    order: (server, keyVersion, keys, nextFirst) => {
      const found = known.get(server)
      const next = keys[1]?.fingerprint
      if (next === undefined) return keys
      const mayAsk = nextFirst === 'person' || found?.hungUpAt !== nameOf(keyVersion, next)
      return first(nextFirst !== 'no' && mayAsk ? next : (found?.taken ?? undefined), keys)
    },
    took: (server, fingerprint) => learn(server, { taken: fingerprint }),
    hungUpAt: (server, keyVersion, fingerprint) => learn(server, { hungUpAt: nameOf(keyVersion, fingerprint) }),
  }
}
