import { z } from 'zod'
import type { JobError } from '../host/errors.ts'
import type { Random } from '../observability/random.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { contentVersion } from './content-version.ts'
import { materialOfFields, type SecretMaterial } from './material.ts'
import type { Answer } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { accessDenied, notFound, unreachable } from './store-errors.ts'
import { VAULT_PATH } from './vault-config.ts'
import { createVaultSession, type VaultSession, type VaultSessionOptions } from './vault-session.ts'

/** HashiCorp Vault and OpenBao: a secret of a KV engine, of version 1 or 2, whichever the engine is. */

type VaultReference = Extract<SecretReference, { type: 'hashicorp_vault' }>
type KvVersion = 1 | 2
const MOST_ENGINES = 100

export interface VaultOptions extends VaultSessionOptions {
  readonly random: Random
}

const Mount = z.object({
  data: z.object({ type: z.string(), options: z.object({ version: z.string().optional() }).nullish() }),
})
const Read1 = z.object({ data: z.record(z.string(), z.unknown()) })
const Read2 = z.object({
  data: z.object({
    /** Null where the version was deleted. */
    data: z.record(z.string(), z.unknown()).nullable(),
    metadata: z.object({ version: z.number(), created_time: z.string() }),
  }),
})

const check = ({ secretEngine, path }: VaultReference): void => {
  if (VAULT_PATH.test(secretEngine) && VAULT_PATH.test(path)) return
  throw notFound('a secret of that engine or path', 'Correct secret_engine (secret) and path (ssh/prod).')
}

const nameOf = ({ secretEngine, path }: VaultReference): string => `${secretEngine}/${path}`

export const vaultPolicy = ({ secretEngine, path }: VaultReference): string =>
  [
    `path "${secretEngine}/data/${path}" { capabilities = ["read"] }   # KV version 2`,
    `path "${secretEngine}/${path}" { capabilities = ["read"] }   # KV version 1`,
  ].join('\n')

const putCommand = ({ secretEngine, path }: VaultReference): string =>
  `vault kv put -mount="${secretEngine}" "${path}" base64_private_key="$(base64 -w0 key.pem)"`

/** Reading from any other engine may do something: `aws/creds/NAME` makes a user in AWS. */
const notKv = ({ secretEngine }: VaultReference, type: string): JobError =>
  accessDenied(
    `the engine ${secretEngine} is of the type ${type}, and only kv is read`,
    'Keep the secret in a KV engine.',
  )

/** Null where Vault does not tell: it tells whoever may read anything in the engine. */
const versionIn = ({ status, body }: Answer, reference: VaultReference): KvVersion | null => {
  const mount = Mount.safeParse(body)
  if (status !== 200 || !mount.success) return null
  const { type, options } = mount.data.data
  if (type !== 'kv' && type !== 'generic') throw notKv(reference, type.replaceAll(/[^a-z_-]/g, '').slice(0, 32))
  return options?.version === '2' ? 2 : 1
}

const fetchAs = (session: VaultSession, version: KvVersion, reference: VaultReference, signal: AbortSignal) =>
  session.get(`${reference.secretEngine}/${version === 2 ? 'data/' : ''}${reference.path}`, signal)

export const vaultStore = ({ random, ...options }: VaultOptions): SecretStore<'hashicorp_vault'> => {
  let session: VaultSession | null = null
  /** By engine. */
  const versions = new Map<string, KvVersion>()
  /** Version 1 has no versions. */
  const versionOf = contentVersion(random)

  /** As many as a customer has; the names are the control plane's. */
  const remember = (engine: string, version: KvVersion): void => {
    if (versions.size >= MOST_ENGINES) versions.clear()
    versions.set(engine, version)
  }

  const materialOfAnswer = (version: KvVersion, body: unknown): SecretMaterial | null => {
    if (version === 1) {
      const read = Read1.safeParse(body)
      return read.success ? materialOfFields(read.data.data, versionOf(JSON.stringify(read.data.data))) : null
    }
    const { data, metadata } = Read2.safeParse(body).data?.data ?? {}
    // A number is given again when a secret was destroyed and made anew.
    return data && metadata ? materialOfFields(data, `${metadata.created_time} ${metadata.version}`) : null
  }

  const judge = (version: KvVersion, { status, body }: Answer, reference: VaultReference): SecretMaterial => {
    const material = status === 200 ? materialOfAnswer(version, body) : null
    if (material !== null) return material
    if (status === 404) throw notFound(`the secret ${nameOf(reference)}`, putCommand(reference))
    if (status === 403) {
      const how = `Give the connector's role this policy (the line that fits):\n${vaultPolicy(reference)}`
      throw accessDenied(`the connector may not read ${nameOf(reference)}`, how)
    }
    throw unreachable(`${options.config.address} answered ${status}, and not with a secret`)
  }

  const read = async (of: VaultSession, reference: VaultReference, signal: AbortSignal): Promise<SecretMaterial> => {
    const { secretEngine } = reference
    const asked = versions.has(secretEngine) ? null : await of.get(`sys/internal/ui/mounts/${secretEngine}`, signal)
    const known = asked === null ? versions.get(secretEngine) : versionIn(asked, reference)
    // Where nobody tells, only version 2 is safe to try: its paths are those of no other engine.
    const version = known ?? 2
    const answer = await fetchAs(of, version, reference, signal)
    if (answer.status === 200 && known) remember(secretEngine, known)
    // An engine can be made anew, or turned into version 2.
    if (answer.status === 404) versions.delete(secretEngine)
    return judge(version, answer, reference)
  }

  return {
    type: 'hashicorp_vault',
    read: async (reference, { signal }) => {
      check(reference)
      session ??= createVaultSession(options)
      return await read(session, reference, signal)
    },
    close: async () => {
      await session?.close()
    },
  }
}
