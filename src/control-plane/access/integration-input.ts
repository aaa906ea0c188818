import { z } from 'zod'
import { ConnectorId } from '../../protocol/calls.ts'
import { type Integration, Policy, type SecretReference } from '../../protocol/integration.ts'
import { AccountName } from '../../protocol/primitives.ts'
import { type InputProblem, invalid } from './domain-error.ts'
import { check, type Parsed, refuseTooDeep } from './input.ts'
import { oneSecretStore, Stores } from './secret-store-input.ts'
import { parseServers, type ServerInput } from './server-list.ts'

/** The permission that every server has: the login's own default group and nothing more. */
export const DEFAULT_PERMISSION = 'Default'

export interface IntegrationInput {
  readonly name: string
  readonly connectorId: string
  readonly servers: readonly ServerInput[]
  readonly userGroups: readonly string[]
  readonly policy: Integration['policy']
  readonly secretStore: SecretReference
  readonly config: Readonly<Record<string, string>>
  readonly extra: Readonly<Record<string, unknown>>
}

const Owner = z.looseObject({ attribute_type: z.string(), attribute_value: z.array(z.string()) })
const OwnersMapping = z.looseObject({ key_name: z.string(), attribute_type: z.string() })

const Envelope = z.object({
  name: z
    .string()
    .trim()
    .min(1, 'required')
    .max(256)
    .regex(/^[^\p{Cc}/]+$/u, 'must not contain control characters or /'),
  type: z.literal('ssh', { error: 'must be "ssh"' }),
  connector_id: ConnectorId,
  integration_config: z.record(z.string(), z.unknown()),
  secret_store_config: Stores,
  connected_resource_types: z.array(z.string()).nullish(),
  custom_access_details: z.string().max(400).nullish(),
  owner: Owner.nullish(),
  owners_mapping: OwnersMapping.nullish(),
})

const splitGroups = (input: unknown): unknown => {
  if (input === undefined || input === null || input === '') return []
  if (typeof input !== 'string') return input
  if (!input.trimStart().startsWith('[')) return input.split(',').map((name) => name.trim())
  try {
    return JSON.parse(input)
  } catch {
    return input
  }
}

const GroupList = z.array(AccountName, { error: 'must be a list of group names' }).max(1000)

const parseGroups = (input: unknown): Parsed<readonly string[]> => {
  const list = splitGroups(input)
  const named = Array.isArray(list) ? list.filter((name) => name !== DEFAULT_PERMISSION && name !== '') : list
  const parsed = check(GroupList, named, ['user_groups'])
  return parsed.ok ? { ok: true, value: [...new Set(parsed.value)] } : parsed
}

const POLICY_KEYS = {
  existing_user: 'existingUser',
  on_revoke: 'onRevoke',
  host_keys: 'hostKeys',
  trust: 'trust',
  root_processes: 'rootProcesses',
  shell: 'shell',
  uid_range: 'uidRange',
} as const

/** `[20000, 59999]`, the same as a string, or `20000-59999`. */
const uidRange = (input: unknown): unknown =>
  typeof input === 'string' ? (input.match(/\d+/g) ?? [input]).map((part) => Number(part)) : input

const parsePolicy = (config: Readonly<Record<string, unknown>>): Parsed<Integration['policy']> => {
  const entries = Object.entries(POLICY_KEYS)
    .filter(([key]) => config[key] !== undefined && config[key] !== null && config[key] !== '')
    .map(([key, name]) => [name, key === 'uid_range' ? uidRange(config[key]) : config[key]])
  const parsed = check(Policy, Object.fromEntries(entries))
  if (parsed.ok) return parsed
  return { ok: false, problems: parsed.problems.map(({ path, message }) => ({ path: asSent(path), message })) }
}

const asSent = (path: string): string => {
  const [key] = Object.entries(POLICY_KEYS).find(([, name]) => path.startsWith(name)) ?? [path]
  return key
}

/** The vendor's `integration_config` is a map of strings; what came as a list goes back as its JSON text. */
const asStrings = (config: Readonly<Record<string, unknown>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(config)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([key, value]) => [key, typeof value === 'string' ? value : JSON.stringify(value)]),
  )

const problemsOf = (...parts: readonly Parsed<unknown>[]): readonly InputProblem[] =>
  parts.flatMap((part) => (part.ok ? [] : part.problems))

const configOf = (body: unknown): Record<string, unknown> => {
  const config = check(z.looseObject({ integration_config: z.record(z.string(), z.unknown()) }), body)
  return config.ok ? config.value.integration_config : {}
}

const storesOf = (body: unknown): Parsed<SecretReference> | null => {
  const parsed = check(z.looseObject({ secret_store_config: Stores }), body)
  return parsed.ok ? oneSecretStore(parsed.value.secret_store_config) : null
}

/** Looks at every part, whatever is wrong with the others, so that one answer names all problems. */
export const parseIntegration = (body: unknown): IntegrationInput => {
  refuseTooDeep(body)
  const envelope = check(Envelope, body)
  const config = configOf(body)
  const [servers, groups, policy] = [
    parseServers(config['servers']),
    parseGroups(config['user_groups']),
    parsePolicy(config),
  ]
  const secretStore = storesOf(body)
  const problems = problemsOf(envelope, servers, groups, policy, ...(secretStore ? [secretStore] : []))
  if (!envelope.ok || !servers.ok || !groups.ok || !policy.ok || !secretStore?.ok) throw invalid(problems)
  const { name, connector_id: connectorId, type, integration_config, secret_store_config, ...extra } = envelope.value
  return {
    name,
    connectorId,
    servers: servers.value,
    userGroups: groups.value,
    policy: policy.value,
    secretStore: secretStore.value,
    config: asStrings(integration_config),
    extra,
  }
}
