import { z } from 'zod'
import { Host } from '../../protocol/integration.ts'
import { AccountName } from '../../protocol/primitives.ts'
import type { InputProblem } from './domain-error.ts'
import { check, type Parsed } from './input.ts'
import { JumpsInput } from './jump-list.ts'
import { HostKeysInput, PortInput } from './server-fields.ts'

const MAX_SERVERS = 10_000
const MAX_TAGS = 100

const TagText = z.string().max(256)

/** The vendor does not document the shape of `tags`: an object, or a list of `key=value`. */
const TagsInput = z
  .union([z.record(z.string().min(1).max(128), TagText), z.array(z.string().regex(/^[^=]+=/, 'must be key=value'))], {
    error: 'must be an object of strings, or a list of key=value',
  })
  .transform((tags) => (Array.isArray(tags) ? fromPairs(tags) : tags))
  .refine((tags) => Object.keys(tags).length <= MAX_TAGS, `at most ${MAX_TAGS} tags`)

const fromPairs = (pairs: readonly string[]): Record<string, string> =>
  Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]))

const printable = /^[^\p{Cc}]+$/u

const ServerFields = z.object({
  name: z.string().trim().min(1, 'required').max(256).regex(printable, 'must not contain control characters'),
  host: z.string().min(1, 'required').pipe(Host),
  user: AccountName.default('apono'),
  port: PortInput.default(22),
  tags: TagsInput.default({}),
  host_keys: HostKeysInput,
  jumps: JumpsInput,
})

/** `hostKeys` undefined: not sent. */
export const ServerInput = ServerFields.transform(({ host_keys: hostKeys, ...rest }) => ({ ...rest, hostKeys }))
export type ServerInput = z.infer<typeof ServerInput>

const ServerList = z
  .array(ServerInput, { error: 'must be a list of servers' })
  .min(1, 'at least one server')
  .max(MAX_SERVERS, `at most ${MAX_SERVERS} servers`)

const repeatedNames = (servers: readonly ServerInput[]): readonly InputProblem[] => {
  const seen = new Map<string, number>()
  return servers.flatMap(({ name }, index) => {
    const first = seen.get(name) ?? index
    seen.set(name, first)
    return first === index ? [] : [{ path: `servers[${index}].name`, message: `is the same as servers[${first}].name` }]
  })
}

const readJson = (input: unknown): Parsed<unknown> => {
  if (typeof input !== 'string') return { ok: true, value: input }
  try {
    return { ok: true, value: JSON.parse(input) }
  } catch (error) {
    const reason = error instanceof Error ? error.message : 'not readable'
    return { ok: false, problems: [{ path: 'servers', message: `is not valid JSON: ${reason}` }] }
  }
}

/** `servers` of an integration: a JSON list as a string (the vendor's form), or the list itself. */
export const parseServers = (input: unknown): Parsed<readonly ServerInput[]> => {
  if (input === undefined || input === '') return { ok: false, problems: [{ path: 'servers', message: 'required' }] }
  const json = readJson(input)
  if (!json.ok) return json
  const list = check(ServerList, json.value, ['servers'])
  if (!list.ok) return list
  const problems = repeatedNames(list.value)
  return problems.length > 0 ? { ok: false, problems } : list
}
