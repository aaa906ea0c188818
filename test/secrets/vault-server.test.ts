import { randomBytes } from 'node:crypto'
import { describe, expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import type { SecretReference } from '../../src/protocol/integration.ts'
import { secretStores } from '../../src/secrets/stores.ts'
import { vaultPolicy, vaultStore } from '../../src/secrets/vault.ts'
import { readVaultConfig } from '../../src/secrets/vault-config.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { startVault, VAULT, type Vault, vaultImage, vaultRequest } from './stores/vault.ts'

// The store as in vault.test.ts, beside a Vault that is one, where its image is. With what is said about policies in
// docs/secret-stores.md, as a Vault sees it.

type Env = Record<string, string>
const image = await vaultImage()

const storeAt = (url: string, environment: Env) => {
  const config = readVaultConfig({ VAULT_ADDR: url, ...environment }, (problem) => expect(problem).toBe(''))
  if (config === null) throw new Error('no Vault')
  return vaultStore({ config, environment: {}, clock: systemClock, random: randomBytes })
}
const reference = (secretEngine: string, path: string) => ({ type: 'hashicorp_vault' as const, secretEngine, path })

/** With an engine of either version, and a way in for machines. */
const start = async (): Promise<Vault> => {
  const vault = await startVault(image ?? '')
  await vaultRequest(vault, 'POST', 'sys/mounts/team/kv1', { type: 'kv', options: { version: '1' } })
  await vaultRequest(vault, 'POST', 'sys/auth/approle', { type: 'approle' })
  return vault
}

/** May read what the policy of the documentation names, and nothing else. */
const roleFor = async (vault: Vault, name: string, policy: string): Promise<Env> => {
  await vaultRequest(vault, 'PUT', `sys/policies/acl/${name}`, { policy })
  await vaultRequest(vault, 'POST', `auth/approle/role/${name}`, { token_policies: [name], token_ttl: '1h' })
  const role = (await vaultRequest(vault, 'GET', `auth/approle/role/${name}/role-id`)) as { data: { role_id: string } }
  const secret = (await vaultRequest(vault, 'POST', `auth/approle/role/${name}/secret-id`)) as {
    data: { secret_id: string }
  }
  return {
    APONO_VAULT_AUTH: 'approle',
    APONO_VAULT_ROLE_ID: role.data.role_id,
    APONO_VAULT_SECRET_ID: secret.data.secret_id,
  }
}

const put = async (vault: Vault, engine: string, path: string, data: object): Promise<SecretReference> => {
  if (engine === 'secret') await vaultRequest(vault, 'POST', `secret/data/${path}`, { data })
  else await vaultRequest(vault, 'POST', `${engine}/${path}`, data)
  return reference(engine, path)
}

const tokensOf = async (vault: Vault): Promise<number> => {
  const { data } = (await vaultRequest(vault, 'LIST', 'auth/token/accessors')) as { data: { keys: string[] } }
  return data.keys.length
}

describe.skipIf(image === null)(`beside ${VAULT}`, () => {
  for (const engine of ['secret', 'team/kv1']) {
    conforms(`hashicorp_vault with the engine ${engine}`, async () => {
      const vault = await start()
      const proxy = await startHttpFaultProxy(vault.endpoint)
      const role = await roleFor(vault, 'conformance', vaultPolicy(reference(engine, 'mine/*')))
      return {
        open: () => storeAt(proxy.url, role),
        put: (name, fields) => put(vault, engine, `mine/${name}`, fields),
        missing: reference(engine, 'mine/missing'),
        hostile: [reference(engine, '../../sys/seal'), reference(engine, 'mine//x'), reference('..', 'x')],
        forbidden: async () => ({
          reference: await put(vault, engine, 'others/ssh', { base64_private_key: 'k' }),
          how: /capabilities = \["read"\]/,
        }),
        requests: () => proxy.requests().length,
        faults: httpFaults(proxy, { status: 429, body: '{}' }),
        stop: async () => {
          await proxy.close()
          await vault.stop()
        },
      }
    }, ['putText', 'distrusted'])
  }

  test('reads by the policy of the documentation, is refused by any less, and gives its token back', async () => {
    const vault = await start()
    onTestFinished(() => vault.stop())
    const before = await tokensOf(vault)
    for (const engine of ['secret', 'team/kv1']) {
      const of = await put(vault, engine, 'ssh/prod', { base64_private_key: 'k' })
      const read = async (policy: string, name: string) => {
        const store = storeAt(vault.endpoint, await roleFor(vault, name, policy))
        const stores = secretStores([store], { clock: systemClock, cloud: 'none', deadlineMs: 5000 })
        return await stores.read(of).finally(() => stores.close())
      }
      const policy = vaultPolicy(reference(engine, 'ssh/prod'))
      expect((await read(policy, 'enough')).privateKey.reveal()).toBe('k')
      const listing = policy.replaceAll('"read"', '"list"')
      await expect(read(listing, 'less')).rejects.toMatchObject({ code: 'secret_access_denied' })
      await expect(read(policy.replaceAll('prod', 'test'), 'another')).rejects.toMatchObject({
        code: 'secret_access_denied',
      })
    }
    expect(await tokensOf(vault)).toBe(before)
  })

  test('a version that was deleted, and a secret that was destroyed and made anew, are what they are', async () => {
    const vault = await start()
    onTestFinished(() => vault.stop())
    const store = storeAt(vault.endpoint, { VAULT_TOKEN: vault.rootToken })
    const stores = secretStores([store], { clock: systemClock, cloud: 'none', deadlineMs: 5000 })
    onTestFinished(() => stores.close())
    const of = await put(vault, 'secret', 'ssh', { base64_private_key: 'one' })
    const first = await stores.read(of)
    await vaultRequest(vault, 'DELETE', 'secret/data/ssh')
    await expect(stores.read(of)).rejects.toMatchObject({ code: 'secret_not_found' })
    await vaultRequest(vault, 'DELETE', 'secret/metadata/ssh')
    await put(vault, 'secret', 'ssh', { base64_private_key: 'two' })
    const again = await stores.read(of)
    expect([again.privateKey.reveal(), again.version === first.version]).toEqual(['two', false])
  })
})
