/**
 * A connector in a process of its own, as its image starts one, that reads one secret, or none, and says how much memory
 * it then has: secrets-child.ts aws|azure|gcp|none ADDRESS.
 */
import { randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig } from '../src/connector/config.ts'
import { startConnector } from '../src/connector/connector.ts'
import { hostProgram } from '../src/host/host-program.ts'
import { systemClock } from '../src/observability/clock.ts'
import { createLogger } from '../src/observability/log.ts'
import type { SecretReference } from '../src/protocol/integration.ts'
import type { AnySecretStore } from '../src/secrets/secret-store.ts'
import { secretStores } from '../src/secrets/stores.ts'

const [kind = 'none', address = ''] = process.argv.slice(2)
const environment = process.env

const storeOf = async (): Promise<{ store: AnySecretStore; reference: SecretReference } | null> => {
  if (kind === 'aws') {
    const { awsStore } = await import('../src/secrets/aws.ts')
    return { store: awsStore(environment), reference: { type: 'aws', region: 'eu-central-1', secretId: 'bench' } }
  }
  if (kind === 'azure') {
    const { azureStore } = await import('../src/secrets/azure.ts')
    const store = azureStore({ environment, clock: systemClock, checkChallenge: false })
    return { store, reference: { type: 'azure', vaultUrl: address, name: 'bench' } }
  }
  if (kind !== 'gcp') return null
  const { gcpStore } = await import('../src/secrets/gcp.ts')
  const { OAuth2Client } = await import('google-auth-library')
  const authClient = new OAuth2Client()
  authClient.setCredentials({ access_token: 'bench', expiry_date: Date.now() + 3_600_000 })
  const client = { apiEndpoint: 'localhost', port: Number(address), authClient: authClient as never }
  const store = gcpStore({ environment, clock: systemClock, random: randomBytes, client })
  return { store, reference: { type: 'gcp', project: 'bench', secretId: 'bench' } }
}

const parsed = readConfig({
  ...environment,
  APONO_STATE_DIR: mkdtempSync(join(tmpdir(), 'apono-bench-state-')),
  APONO_URL: 'http://127.0.0.1:1',
  APONO_TOKEN: 'bench',
  APONO_CONNECTOR_ID: 'bench',
  APONO_HEALTH_LISTEN: '127.0.0.1:0',
  APONO_CLOUD_PROVIDER: 'none',
})
if (!parsed.ok) throw new Error(parsed.problems.join('\n'))
const log = createLogger('error')
const deps = { clock: systemClock, log, random: randomBytes, environment, hostProgram, version: '0' }
await startConnector(parsed.config, deps)
const started = performance.now()
if (kind === 'none') {
  process.stdout.write(`${JSON.stringify({ started, rssMiB: 0 })}\n`)
  process.exit(0)
}

const which = await storeOf()
if (which !== null) {
  const stores = secretStores([which.store], { clock: systemClock, cloud: 'none', deadlineMs: 20_000 })
  for (let n = 0; n < 3; n++) await stores.read(which.reference)
}
// By then its loops have gone round, and what the start left behind may have been collected.
await new Promise((resolve) => setTimeout(resolve, 1500))
/** Of the whole process, shared pages included: what an orchestrator counts. */
const rssKiB = Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1])
process.stdout.write(`${JSON.stringify({ started, rssMiB: rssKiB / 1024 })}\n`)
process.exit(0)
