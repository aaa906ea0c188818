import { z } from 'zod'
import type { SecretReference } from '../../protocol/integration.ts'
import type { Parsed } from './input.ts'

const Text = z.string().min(1, 'required').max(1024)

/** The vendor's `secret_store_config`: one member for each kind of store. */
export const Stores = z.object({
  aws: z.object({ region: Text, secret_id: Text }).nullish(),
  gcp: z.object({ project: Text, secret_id: Text }).nullish(),
  azure: z.object({ vault_url: Text, name: Text }).nullish(),
  kubernetes: z.object({ namespace: Text, name: Text }).nullish(),
  hashicorp_vault: z.object({ secret_engine: Text, path: Text }).nullish(),
  file: z.object({ path: Text }).nullish(),
  apono: z.unknown().optional(),
})

export type Stores = z.infer<typeof Stores>

const toReference = (stores: Stores): SecretReference[] => {
  const { aws, gcp, azure, kubernetes, hashicorp_vault: vault, file } = stores
  const found: (SecretReference | null)[] = [
    aws ? { type: 'aws', region: aws.region, secretId: aws.secret_id } : null,
    gcp ? { type: 'gcp', project: gcp.project, secretId: gcp.secret_id } : null,
    azure ? { type: 'azure', vaultUrl: azure.vault_url, name: azure.name } : null,
    kubernetes ? { type: 'kubernetes', namespace: kubernetes.namespace, name: kubernetes.name } : null,
    vault ? { type: 'hashicorp_vault', secretEngine: vault.secret_engine, path: vault.path } : null,
    file ? { type: 'file', path: file.path } : null,
  ]
  return found.filter((reference) => reference !== null)
}

export const oneSecretStore = (stores: Stores): Parsed<SecretReference> => {
  const problem = (message: string): Parsed<SecretReference> => ({
    ok: false,
    problems: [{ path: 'secret_store_config', message }],
  })
  if (stores.apono) return problem('the store "apono" is not supported: keep the secret in a store of your own')
  const [reference, second] = toReference(stores)
  if (!reference || second) {
    return problem('exactly one of aws, gcp, azure, kubernetes, hashicorp_vault and file is required')
  }
  return { ok: true, value: reference }
}
