import { z } from 'zod'
import { Host } from '../../protocol/integration.ts'
import { AccountName } from '../../protocol/primitives.ts'
import type { InputProblem } from './domain-error.ts'
import { MAX_HOST_KEYS } from './host-keys.ts'
import { check, type Parsed } from './input.ts'
import { parsePublicKey } from './public-key.ts'

const MAX_SERVERS = 10_000
const MAX_TAGS = 100

const PortInput = z
  .union([z.int(), z.string().regex(/^[0-9]{1,5}$/, 'must be a number from 1 to 65535')], {
    error: 'must be a number from 1 to 65535',
  })
  .transform(Number)
  .pipe(z.int().min(1, 'must be a number from 1 to 65535').max(65535, 'must be a number from 1 to 65535'))

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

/** A line as /etc/ssh/ssh_host_*_key.pub has it; the comment is dropped. */
const HostKeyInput = z.string({ error: 'must be a host key: type and base64' }).transform((text, context) => {
  const parsed = parsePublicKey(text)
  if (parsed.ok) return parsed.key
  context.addIssue({ code: 'custom', message: parsed.problem })
  return z.NEVER
})

const HostKeysInput = z
  .array(HostKeyInput, { error: 'must be a list of host keys' })
  .max(MAX_HOST_KEYS, `at most ${MAX_HOST_KEYS} host keys`)
  .nullish()
  .transform((keys) => (keys ? [...new Set(keys)] : undefined))

const ServerFields = z.object({
  name: z.string().trim().min(1, 'required').max(256).regex(printable, 'must not contain control characters'),
  host: z.string().min(1, 'required').pipe(Host),
  user: AccountName.default('apono'),
  port: PortInput.default(22),
  tags: TagsInput.default({}),
  host_keys: HostKeysInput,
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
