import { type ErrorFacts, JobError } from '../host/errors.ts'
import type { LoginKey } from '../secrets/private-key.ts'
import type { HostKeyRules } from './host-keys.ts'
import type { SshServer } from './session.ts'

/** What one version of one secret gave to log in with. */
export interface VersionedKey {
  /** The current key; then the next one, while the secret holds both. A server takes either, or one of them. */
  readonly keys: readonly LoginKey[]
  /** Names secret and version; another value means that the keys may be others. */
  readonly version: string
  /** Why there is no next key although the secret holds one. */
  readonly nextUnusable?: JobError | null
}

/** One login on the way. `addresses` of the server is empty for what the jump host before it resolves. */
export interface Hop {
  readonly server: SshServer
  readonly key: VersionedKey
  readonly rules: HostKeyRules
}

/** How a server is reached: the jump hosts in order, and the server itself. */
export interface Route {
  readonly jumps: readonly Hop[]
  readonly target: Hop
}

/** `HOST:PORT` */
export const placeOf = ({ server }: Hop): string => `${server.host}:${server.port}`

const nameOf = (hop: Hop): string => `${hop.server.user}@${placeOf(hop)}`

/** What each hop's connection is known by, the way to it included: `a@one:22`, then `a@one:22>b@two:22`. */
export const namesOf = ({ jumps, target }: Route): string[] => {
  const names: string[] = []
  for (const hop of [...jumps, target]) names.push([...names.slice(-1), nameOf(hop)].join('>'))
  return names
}

/** Each once: a next key that was made the current one, and not dropped yet, is no other. */
export const keysOf = ({ key: { keys } }: Hop): readonly LoginKey[] =>
  keys.filter(({ fingerprint }, index) => keys.findIndex((one) => one.fingerprint === fingerprint) === index)

/** The key that is to take the current one's place; undefined where the secret holds one key. */
export const nextKeyOf = (hop: Hop): LoginKey | undefined => keysOf(hop)[1]

export const factsOf = (hop: Hop): ErrorFacts => ({
  user: hop.server.user,
  host: hop.server.host,
  port: hop.server.port,
  fingerprints: keysOf(hop).map(({ fingerprint }) => fingerprint),
})

/** A hop with the way to it: its own name comes last, too. */
export interface Way {
  readonly hops: readonly Hop[]
  readonly names: readonly string[]
  readonly hop: Hop
  readonly name: string
}

/** As far as the jump host before the last hop; null for the first. */
export const before = ({ hops, names }: Way): Way | null =>
  hops.length === 1 ? null : wayOf(hops.slice(0, -1), names.slice(0, -1))

export const wayOf = (hops: readonly Hop[], names: readonly string[]): Way => {
  const [hop, name] = [hops.at(-1), names.at(-1)]
  if (hop === undefined || name === undefined) throw new JobError('internal_error', 'a route without a target')
  return { hops, names, hop, name }
}
