import { createRequire } from 'node:module'
import { z } from 'zod'
import { Policy } from '../protocol/integration.ts'
import { ACCOUNT_NAME } from '../protocol/primitives.ts'
import { type HostRule, parseHostRule } from './host-rules.ts'
import { SecretRule } from './secret-rules.ts'

/**
 * The customer's guard file: what it may say. Nothing in it is guessed or passed over: a member that
 * we don't know, or a rule that we read otherwise than its writer, would be a limit that isn't there.
 *
 * A member that is absent leaves the default limits for its subject; an empty list allows nothing.
 */

const HOST_EXPECTED =
  'must be NAME, *.NAME, ADDRESS, NETWORK/PREFIX (no bits set behind it) or either in [] for IPv6, then nothing (port 22), :PORT, :LOW-HIGH or :*'

const HostRuleText = z.string().transform((text, context): HostRule => {
  const rule = text.length > 300 ? null : parseHostRule(text)
  if (rule !== null) return rule
  context.addIssue({ code: 'custom', message: HOST_EXPECTED })
  return z.NEVER
})

/** The name, or its beginning and a `*`. */
const AccountPattern = z
  .string()
  .refine(
    (text) => text === '*' || ACCOUNT_NAME.test(text.replace(/\*$/, '')),
    'must be a name, or the beginning of names and *',
  )

const oneOf = <T extends z.ZodType>(value: T) => z.array(value).max(100)

/** Without `existingUser`: `adopt` is about that, login by login. */
const AllowedPolicy = z.strictObject({
  trust: oneOf(Policy.shape.trust.unwrap()).optional(),
  shell: oneOf(Policy.shape.shell.unwrap()).optional(),
  rootProcesses: oneOf(Policy.shape.rootProcesses.unwrap()).optional(),
  homes: oneOf(Policy.shape.homes.unwrap()).optional(),
  onRevoke: oneOf(Policy.shape.onRevoke.unwrap()).optional(),
  hostKeys: oneOf(Policy.shape.hostKeys.unwrap()).optional(),
  uidRange: Policy.shape.uidRange.unwrap().optional(),
})

const MINUTE_MS = 60_000
export const MAX_GRANT_MS = 30 * 24 * 60 * MINUTE_MS

const GuardFile = z.strictObject({
  version: z.literal(1),
  hosts: z.array(HostRuleText).max(10_000).optional(),
  secrets: z.array(SecretRule).max(10_000).optional(),
  logins: z.array(AccountPattern).max(10_000).optional(),
  groups: z.array(AccountPattern).max(10_000).optional(),
  adopt: z
    .union([z.boolean(), z.array(AccountPattern).max(10_000)], 'must be true, false or a list of logins')
    .optional(),
  maxGrantMs: z.int().min(MINUTE_MS).max(MAX_GRANT_MS).optional(),
  policy: AllowedPolicy.optional(),
})
export type GuardRules = Readonly<z.infer<typeof GuardFile>>

export type ReadRules =
  | { readonly ok: true; readonly rules: GuardRules }
  | { readonly ok: false; readonly problems: readonly string[] }

const SHOWN = 20

export const brokenRules = (problems: readonly string[]): ReadRules => ({
  ok: false,
  problems:
    problems.length > SHOWN ? [...problems.slice(0, SHOWN), `and ${problems.length - SHOWN} more problems`] : problems,
})

/** Members are named by their path; values are not told, since a control plane is shown this too. */
const inWords = (issue: z.core.$ZodIssue): string[] => {
  const path = issue.path.map(String).join('.')
  if (issue.code !== 'unrecognized_keys') return [`${path || 'the file'}: ${issue.message}`]
  return issue.keys.map(
    (key) => `${path === '' ? '' : `${path}.`}${JSON.stringify(key.slice(0, 64))}: not a known member`,
  )
}

/** Required where it is used: a connector without a guard file never loads it. */
const yaml = (): typeof import('yaml') => createRequire(import.meta.url)('yaml') as typeof import('yaml')

const ALIASES = 100

/** YAML 1.2, and JSON, which is part of it. */
const parseYaml = (text: string): { readonly content: unknown; readonly problems: readonly string[] } => {
  const { LineCounter, parseDocument } = yaml()
  const lineCounter = new LineCounter()
  const options = { version: '1.2', schema: 'core', strict: true, uniqueKeys: true, stringKeys: true } as const
  // Not pretty: that quotes the file.
  const document = parseDocument(text, { ...options, prettyErrors: false, lineCounter })
  const faults = [...document.errors, ...document.warnings]
  if (faults.some(({ code }) => code === 'MULTIPLE_DOCS'))
    return { content: null, problems: ['more than one document'] }
  if (faults.length > 0) {
    const problems = faults.map(
      ({ pos, message }) => `line ${lineCounter.linePos(pos[0]).line}: ${message.slice(0, 200)}`,
    )
    return { content: null, problems }
  }
  try {
    return { content: document.toJS({ maxAliasCount: ALIASES }), problems: [] }
  } catch {
    return { content: null, problems: ['aliases that refer to too much or to nothing'] }
  }
}

export const parseGuardFile = (text: string): ReadRules => {
  const { content, problems } = parseYaml(text)
  if (problems.length > 0) return brokenRules(problems)
  const parsed = GuardFile.safeParse(content)
  return parsed.success ? { ok: true, rules: parsed.data } : brokenRules(parsed.error.issues.flatMap(inWords))
}
