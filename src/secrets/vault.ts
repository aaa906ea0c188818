import { createHmac } from 'node:crypto'
import { z } from 'zod'
import type { Random } from '../observability/random.ts'
import type { SecretReference } from '../protocol/integration.ts'
import { materialOfFields, type SecretMaterial } from './material.ts'
import type { Answer } from './network.ts'
import type { SecretStore } from './secret-store.ts'
import { accessDenied, notFound, unreachable } from './store-errors.ts'
import { VAULT_PATH } from './vault-config.ts'
import { createVaultSession, type VaultSession, type VaultSessionOptions } from './vault-session.ts'

/** HashiCorp Vault and OpenBao: a secret of a KV engine, of version 1 or 2, whichever the engine is. */

type VaultReference = Extract<SecretReference, { type: 'hashicorp_vault' }>
type KvVersion = 1 | 2

export interface VaultOptions extends VaultSessionOptions {
  readonly random: Random
}

const Mount = z.object({ data: z.object({ options: z.object({ version: z.string().optional() }).nullish() }) })
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

/** Null where Vault does not tell: it tells whoever may read anything in the engine. */
const versionIn = ({ status, body }: Answer): KvVersion | null => {
  const mount = Mount.safeParse(body)
  if (status !== 200 || !mount.success) return null
  return mount.data.data.options?.version === '2' ? 2 : 1
}

const fetchAs = (session: VaultSession, version: KvVersion, reference: VaultReference, signal: AbortSignal) =>
  session.get(`${reference.secretEngine}/${version === 2 ? 'data/' : ''}${reference.path}`, signal)

export const vaultStore = ({ random, ...options }: VaultOptions): SecretStore<'hashicorp_vault'> => {
  let session: VaultSession | null = null
  /** By engine. */
  const versions = new Map<string, KvVersion>()
  const hashKey = random(32)

  /** Version 1 has no versions: what changes with the content and tells nothing of it. */
  const versionOfContent = (fields: object): string =>
    createHmac('sha256', hashKey).update(JSON.stringify(fields)).digest('hex')

  const materialOfAnswer = (version: KvVersion, body: unknown): SecretMaterial | null => {
    if (version === 1) {
      const read = Read1.safeParse(body)
      return read.success ? materialOfFields(read.data.data, versionOfContent(read.data.data)) : null
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
    const known =
      versions.get(secretEngine) ?? versionIn(await of.get(`sys/internal/ui/mounts/${secretEngine}`, signal))
    if (known !== null) versions.set(secretEngine, known)
    const answer = await fetchAs(of, known ?? 2, reference, signal)
    // An engine can be made anew, or turned into version 2.
    if (answer.status === 404) versions.delete(secretEngine)
    if (known !== null || answer.status === 200) return judge(known ?? 2, answer, reference)
    const other = await fetchAs(of, 1, reference, signal)
    return other.status === 200 ? judge(1, other, reference) : judge(2, answer, reference)
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
