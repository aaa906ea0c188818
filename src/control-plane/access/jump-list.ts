import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'
import { type Hop, Host } from '../../protocol/integration.ts'
import { AccountName } from '../../protocol/primitives.ts'
import { oneSecretStore, Stores } from './secret-store-input.ts'
import { HostKeysInput, MAX_HOST_KEYS, PortInput } from './server-fields.ts'

const MAX_JUMPS = 8

/** `hostKeys` undefined: not sent. `secretStore` undefined: the integration's key opens it too. */
const JumpFields = z
  .object({
    host: z.string().min(1, 'required').pipe(Host),
    port: PortInput.default(22),
    user: AccountName.default('apono'),
    host_keys: HostKeysInput,
    secret_store_config: Stores.nullish(),
  })
  .transform(({ host_keys: hostKeys, secret_store_config: stores, ...place }, context) => {
    if (!stores) return { ...place, hostKeys, secretStore: undefined }
    const reference = oneSecretStore(stores)
    if (reference.ok) return { ...place, hostKeys, secretStore: reference.value }
    for (const { message } of reference.problems) {
      context.addIssue({ code: 'custom', message, path: ['secret_store_config'] })
    }
    return z.NEVER
  })
export type JumpInput = z.infer<typeof JumpFields>

/** As ssh_config's ProxyJump has it: `[user@]host[:port]`, IPv6 in brackets, first hop first. */
const PROXY_JUMP = /^(?:([^@]+)@)?(?:\[([^\]]+)\]|([^:[\]]+))(?::(\d{1,5}))?$/

const fromText = (text: string): unknown[] =>
  text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map((part) => {
      const [, user, v6, name, port] = PROXY_JUMP.exec(part) ?? []
      const host = v6 ?? name ?? ''
      return { host, ...(user === undefined ? {} : { user }), ...(port === undefined ? {} : { port }) }
    })

/** The way to a server: a list, or the text of a ProxyJump. */
export const JumpsInput = z
  .preprocess(
    (input) => (typeof input === 'string' ? fromText(input) : (input ?? [])),
    z
      .array(JumpFields, { error: 'must be a list of jump hosts, or user@host:port,…' })
      .max(MAX_JUMPS, `at most ${MAX_JUMPS} jump hosts`),
  )
  .optional()
  .transform((jumps) => jumps ?? [])

type Place = { readonly host: string; readonly port: number }
export const isAt =
  ({ host, port }: Place) =>
  (other: Place): boolean =>
    other.host === host && other.port === port

/**
 * What was learnt of a jump host stays while it is on the way, unless the admin names its keys. That the same list is sent
 * again, as `former` was, names nothing: an update of something else would forget what was learnt since.
 */
export const wantedJumps = (
  wanted: readonly JumpInput[],
  known: readonly Hop[],
  former: readonly JumpInput[] = [],
): Hop[] =>
  wanted.map(({ hostKeys, secretStore, ...place }) => {
    const learnt = known.find(isAt(place))?.hostKeys
    const named = isDeepStrictEqual(hostKeys, former.find(isAt(place))?.hostKeys) ? undefined : hostKeys
    return {
      ...place,
      hostKeys: [...(named ?? learnt ?? hostKeys ?? [])],
      ...(secretStore === undefined ? {} : { secretStore }),
    }
  })

type Shown = Place & { readonly hostKeys: readonly string[] }

/** The first key that any connector sees is pinned for all of them, of jump hosts as of servers. */
export const pinJumps = (jumps: readonly Hop[], seen: readonly Shown[] = []): Hop[] =>
  jumps.map((jump) => {
    const shown = seen.find(isAt(jump))?.hostKeys ?? []
    return jump.hostKeys.length > 0 || shown.length === 0 ? jump : { ...jump, hostKeys: shown.slice(0, MAX_HOST_KEYS) }
  })

/** Two servers of one private address behind different jump hosts are two servers. */
export const pathOf = ({ host, port, jumps }: Place & { readonly jumps?: readonly Place[] | undefined }): string =>
  [...(jumps ?? []), { host, port }].map((place) => `${place.host.toLowerCase()}:${place.port}`).join('>')
