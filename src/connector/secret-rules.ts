import { z } from 'zod'
import type { SecretReference } from '../protocol/integration.ts'
import { SecretStoreType } from '../protocol/primitives.ts'
import { awsRegion, secretText } from './secret-names.ts'

/** One line of `secrets` in a guard file, compared with the text that secret-names.ts makes of a reference. */
export interface SecretRule {
  readonly store: SecretReference['type']
  readonly text: string
  /** The whole text of one secret, or how the texts of several begin. */
  readonly whole: boolean
  /** Of AWS; null: any. */
  readonly region: string | null
}

/**
 * A rule says at least which account, vault, namespace or engine it is about, up to its end: a prefix that stopped within
 * it would take in those of other people that begin alike.
 */
const FORMS = {
  aws: [
    /^(?!arn:)[A-Za-z0-9/_+=.@!-]+$|^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:[A-Za-z0-9/_+=.@!-]*$/,
    'the name of a secret, or an ARN at least as far as ":secret:"',
  ],
  gcp: [/^[a-z0-9.:-]+\/[A-Za-z0-9_-]*$/, 'PROJECT/SECRET, with its slash'],
  azure: [
    /^[a-z0-9-]+\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net)\/[a-z0-9-]*$/i,
    'my-vault.vault.azure.net/SECRET, with its slash',
  ],
  kubernetes: [/^[a-z0-9-]+\/[a-z0-9.-]*$/, 'NAMESPACE/SECRET, with its slash'],
  hashicorp_vault: [
    /^[A-Za-z0-9._@=:~ -]+(?:\/[A-Za-z0-9._@=:~ -]+)*\/(?:[A-Za-z0-9._@=:~ -]+)?$/,
    'ENGINE/PATH, with its slash',
  ],
  file: [/^(?:\/[^/*\p{C}\p{Zl}\p{Zp}]+)*\/?$/u, 'an absolute path, without *'],
} as const satisfies Record<SecretReference['type'], readonly [RegExp, string]>

const EXPECTED = '{ store, prefix } or { store, name }'

export const SecretRule = z
  .strictObject({
    store: SecretStoreType,
    prefix: z.string().min(1).max(2048).optional(),
    name: z.string().min(1).max(2048).optional(),
    region: z
      .string()
      .regex(/^[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}$/, 'must be a region of AWS')
      .optional(),
  })
  .transform(({ store, prefix, name, region }, context): SecretRule => {
    const problem = (path: string[], message: string): SecretRule => {
      context.addIssue({ code: 'custom', path, message })
      return z.NEVER
    }
    const text = name ?? prefix ?? ''
    if ((name === undefined) === (prefix === undefined)) return problem([], `must be ${EXPECTED}`)
    if (region !== undefined && store !== 'aws') return problem(['region'], 'is for the store aws only')
    const member = name === undefined ? 'prefix' : 'name'
    const [form, words] = FORMS[store]
    if (!form.test(text) || (member === 'name' && text.endsWith('/'))) {
      return problem([member], `must be ${member === 'name' ? '' : 'the beginning of '}${words}`)
    }
    const compared = store === 'azure' ? text.toLowerCase() : text
    return { store, text: compared, whole: member === 'name', region: region ?? null }
  })

const isArn = (text: string): boolean => text.startsWith('arn:')

/** A name is one of the connector's own account: a rule for names never stretches to the ARN of another. */
const holdsForAws = (rule: SecretRule, reference: Extract<SecretReference, { type: 'aws' }>): boolean =>
  (rule.region === null || rule.region === awsRegion(reference)) && isArn(rule.text) === isArn(reference.secretId)

export const admitsSecret = (rule: SecretRule, reference: SecretReference): boolean => {
  if (rule.store !== reference.type) return false
  if (reference.type === 'aws' && !holdsForAws(rule, reference)) return false
  const text = secretText(reference)
  return rule.whole ? text === rule.text : text.startsWith(rule.text)
}
