import { randomBytes } from 'node:crypto'
import { readLocalConfig } from '../../../src/connector/config.ts'
import { storesOf } from '../../../src/connector/secret-stores.ts'
import type { JobError } from '../../../src/host/errors.ts'
import { systemClock } from '../../../src/observability/clock.ts'
import type { SecretReference } from '../../../src/protocol/integration.ts'
import type { CloudProvider } from '../../../src/protocol/primitives.ts'
import { azureStore } from '../../../src/secrets/azure.ts'
import { gcpStore } from '../../../src/secrets/gcp.ts'
import { type SecretStores, secretStores } from '../../../src/secrets/stores.ts'

// A process of its own that reads one secret as a connector does, with the environment that it was started with:
// read-child.ts REFERENCE. Prints {key} or {code, message, hint}; whatever nobody has caught ends it with another code.

const environment = process.env
const reference = JSON.parse(process.argv[2] ?? '') as SecretReference

const emulated = (): SecretStores | null => {
  const options = { clock: systemClock, cloud: reference.type as CloudProvider, deadlineMs: 5000 }
  const { TEST_GCP_ENDPOINT: endpoint, TEST_AZURE: azure } = environment
  if (azure) return secretStores([azureStore({ environment, checkChallenge: false })], options)
  if (!endpoint) return null
  const client = { apiEndpoint: endpoint, port: 443 }
  return secretStores([gcpStore({ environment, clock: systemClock, client })], options)
}

const configured = (): SecretStores => {
  const { config, problems } = readLocalConfig(environment)
  if (problems.length > 0) throw new Error(problems.join('\n'))
  const cloud = config.cloudProvider === 'detect' ? 'none' : config.cloudProvider
  return storesOf(config, cloud, { clock: systemClock, random: randomBytes, environment })
}

const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`)

const stores = emulated() ?? configured()
try {
  say({ key: (await stores.read(reference)).privateKey.reveal() })
} catch (error) {
  const { code, message, hint } = error as JobError
  say({ code, message, hint })
}
await stores.close()
// Whoever still has something to say says it now.
setTimeout(() => undefined, 300)
