import tls from 'node:tls'
import { SecretClient } from '@azure/keyvault-secrets'
import { describe, test } from 'vitest'
import { systemClock } from '../../src/observability/clock.ts'
import { azureStore } from '../../src/secrets/azure.ts'
import { selfSigned } from './stores/certificates.ts'
import { conforms } from './stores/conformance.ts'
import { httpFaults } from './stores/counterparts-http.ts'
import { startHttpFaultProxy } from './stores/fault-proxy.ts'
import { hasLowkeyVault, startLowkeyVault } from './stores/lowkey-vault.ts'

// The same store as in azure.test.ts, beside a Key Vault of others, where it can be had. A process of its own, since the SDK
// keeps tokens of a managed identity.

const FORBIDDEN = {
  status: 403,
  headers: { 'content-type': 'application/json' },
  body: '{"error":{"code":"Forbidden","message":"no","innererror":{"code":"ForbiddenByRbac"}}}',
}

const trust = (...certificates: readonly string[]): void =>
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), ...certificates])

const start = async () => {
  const vault = await startLowkeyVault()
  const certificate = await selfSigned()
  trust(vault.certificate, certificate.cert)
  process.env['IDENTITY_ENDPOINT'] = vault.identityEndpoint
  process.env['IDENTITY_HEADER'] = 'header'
  const proxy = await startHttpFaultProxy(vault.vaultUrl, { certificate, ca: vault.certificate })
  const credential = { getToken: async () => ({ token: 'any', expiresOnTimestamp: Date.now() + 3_600_000 }) }
  const admin = new SecretClient(vault.vaultUrl, credential, { disableChallengeResourceVerification: true })
  const reference = (name: string) => ({ type: 'azure' as const, vaultUrl: proxy.url, name })
  const put = async (name: string, value: string) => {
    await admin.setSecret(name, value)
    return reference(name)
  }
  return {
    open: () => azureStore({ environment: {}, clock: systemClock, checkChallenge: false }),
    put: (name: string, fields: object) => put(name, JSON.stringify(fields)),
    putText: put,
    missing: reference('missing'),
    hostile: [reference('../keys/x'), reference('a/b')],
    forbidden: async () => {
      const forbidden = await put('forbidden', '{}')
      proxy.plan({ ...FORBIDDEN, when: ({ headers }) => headers.authorization !== undefined })
      return { reference: forbidden, how: /role assignment create/ }
    },
    requests: () => proxy.requests().length,
    faults: httpFaults(proxy, { status: 429, headers: { 'retry-after': '1' }, body: '{}' }),
    stop: async () => {
      await proxy.close()
      await vault.stop()
    },
  }
}

if (hasLowkeyVault()) conforms('azure, beside Lowkey Vault', start, ['distrusted'])
else describe('the store azure, beside Lowkey Vault', () => test.skip('not exercised here: its image cannot be pulled'))
