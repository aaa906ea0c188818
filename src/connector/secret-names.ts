import type { SecretReference } from '../protocol/integration.ts'

/**
 * What a reference to a secret may look like at all, store by store. Its parts end up in URLs, host names and paths: what
 * could mean something there (`%`, `?`, `#`, `//`, `.`, control characters) is refused, never escaped and never
 * normalised, so that the text that rules are compared with is the secret that is read.
 */

type Of<Type extends SecretReference['type']> = Extract<SecretReference, { type: Type }>

const AZURE_VAULT = /^https:\/\/([a-z0-9-]+\.vault\.(?:azure\.net|azure\.cn|usgovcloudapi\.net))\/?$/i

/** An id of AWS has a colon only where it is an ARN. */
const AWS_NAME = /^[A-Za-z0-9/_+=.@!-]+$/
const AWS_REGION = /^[a-z]{2,4}(?:-[a-z]+)+-\d{1,2}$/
const AWS_ARN = /^arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):\d{12}:secret:(.+)$/

/** As a path in a URL sees them; `.` and `..` are names of other places. */
const areSegments = (text: string, segment: RegExp): boolean =>
  text.split('/').every((part) => segment.test(part) && part !== '.' && part !== '..')

const awsProblem = ({ region, secretId }: Of<'aws'>): string | null => {
  const [, ofArn = region, name = secretId] = AWS_ARN.exec(secretId) ?? []
  if (!AWS_REGION.test(region) || !AWS_REGION.test(ofArn)) return 'the region of the secret is not one of AWS'
  return AWS_NAME.test(name) ? null : 'the secret id is neither a name in AWS nor an ARN of one'
}

/** Project ids, numbers, and the old ids within a domain (`example.com:project`). */
const GCP_PROJECT = /^(?:(?:[a-z0-9-]+\.)+[a-z]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$|^\d{1,19}$/

const gcpProblem = ({ project, secretId }: Of<'gcp'>): string | null =>
  GCP_PROJECT.test(project) && /^[A-Za-z0-9_-]{1,255}$/.test(secretId)
    ? null
    : 'the project or the id of the secret is not one of Google Cloud'

const azureProblem = ({ vaultUrl, name }: Of<'azure'>): string | null => {
  if (!AZURE_VAULT.test(vaultUrl)) return "the vault's URL is not in Azure's domains"
  return /^[0-9a-zA-Z-]{1,127}$/.test(name) ? null : 'the name of the secret is not one of Azure Key Vault'
}

const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/

/** RFC 1123, as Kubernetes holds it: a namespace is one label, the name of a secret may have several. */
const kubernetesProblem = ({ namespace, name }: Of<'kubernetes'>): string | null =>
  LABEL.test(namespace) && name.length <= 253 && name.split('.').every((label) => LABEL.test(label))
    ? null
    : 'the namespace or the name of the secret is not one of Kubernetes'

/** Spaces stand in the middle only: one at an end could be trimmed on the way. */
const VAULT_SEGMENT = /^[A-Za-z0-9._@=:~-](?:[A-Za-z0-9._@=:~ -]*[A-Za-z0-9._@=:~-])?$/

const vaultProblem = ({ secretEngine, path }: Of<'hashicorp_vault'>): string | null =>
  areSegments(secretEngine, VAULT_SEGMENT) && areSegments(path, VAULT_SEGMENT)
    ? null
    : 'the engine or the path is not one of Vault, written without a slash at either end'

/** Nothing that a shell gives a meaning: the path stands in commands that people paste. */
const FILE_SEGMENT = /^[A-Za-z0-9._@+=,:-]+$/

const fileProblem = ({ path }: Of<'file'>): string | null =>
  path.startsWith('/') && areSegments(path.slice(1), FILE_SEGMENT)
    ? null
    : 'the path of the secret is not absolute, or has other characters than letters, digits and ._@+=,:-'

/** Why a reference is refused whatever the rules are, without any of its text; null where it isn't. */
export const secretProblem = (reference: SecretReference): string | null => {
  const parts = Object.values(reference).flatMap((value) => value.split(/[/\\]/))
  if (parts.includes('..')) return 'the secret reference contains ".."'
  switch (reference.type) {
    case 'aws':
      return awsProblem(reference)
    case 'gcp':
      return gcpProblem(reference)
    case 'azure':
      return azureProblem(reference)
    case 'kubernetes':
      return kubernetesProblem(reference)
    case 'hashicorp_vault':
      return vaultProblem(reference)
    case 'file':
      return fileProblem(reference)
  }
}

/** One text per secret, and one secret per text, for references without a {@link secretProblem}. */
export const secretText = (reference: SecretReference): string => {
  switch (reference.type) {
    case 'aws':
      return reference.secretId
    case 'gcp':
      return `${reference.project}/${reference.secretId}`
    case 'azure':
      // Azure does not tell upper from lower case, in either part.
      return `${AZURE_VAULT.exec(reference.vaultUrl)?.[1] ?? ''}/${reference.name}`.toLowerCase()
    case 'kubernetes':
      return `${reference.namespace}/${reference.name}`
    case 'hashicorp_vault':
      return `${reference.secretEngine}/${reference.path}`
    case 'file':
      return reference.path
  }
}

/** Where AWS keeps it: an ARN says so itself, whatever else the reference says. */
export const awsRegion = ({ region, secretId }: Of<'aws'>): string => AWS_ARN.exec(secretId)?.[1] ?? region
