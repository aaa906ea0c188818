import { createHash, randomBytes } from 'node:crypto'
import { writeHeapSnapshot } from 'node:v8'
import { OAuth2Client } from 'google-auth-library'
import { readLocalConfig } from '../../../src/connector/config.ts'
import { openStores } from '../../../src/connector/secret-stores.ts'
import type { JobError } from '../../../src/host/errors.ts'
import { systemClock } from '../../../src/observability/clock.ts'
import type { SecretReference } from '../../../src/protocol/integration.ts'
import type { CloudProvider } from '../../../src/protocol/primitives.ts'
import { azureStore } from '../../../src/secrets/azure.ts'
import { gcpStore } from '../../../src/secrets/gcp.ts'
import { disposeMaterial } from '../../../src/secrets/material.ts'
import { type SecretStores, secretStores } from '../../../src/secrets/stores.ts'

// A process of its own that reads one secret as a connector does, with the environment that it was started with:
// read-child.ts REFERENCE. Prints {key}, its SHA-256, or {code, message, hint}; whatever nobody has caught ends it with another code. TEST_SNAPSHOT: a file for
// the heap as it is in the end.

const environment = process.env
const reference = JSON.parse(process.argv[2] ?? '') as SecretReference

/** As if Google had given one. */
const withToken = () => {
  const client = new OAuth2Client()
  client.setCredentials({ access_token: 'of the test', expiry_date: Date.now() + 3_600_000 })
  return client as never
}

const emulated = (): SecretStores | null => {
  const options = { clock: systemClock, cloud: reference.type as CloudProvider, deadlineMs: 5000 }
  const {
    TEST_GCP_ENDPOINT: endpoint,
    TEST_GCP_PORT: port,
    TEST_GCP_TLS_PORT: ownPort,
    TEST_AZURE: azure,
  } = environment
  if (azure) return secretStores([azureStore({ environment, clock: systemClock, checkChallenge: false })], options)
  if (!endpoint) return null
  const client = {
    apiEndpoint: endpoint,
    port: Number(port ?? ownPort ?? 443),
    ...(port ? { authClient: withToken() } : {}),
  }
  return secretStores([gcpStore({ environment, clock: systemClock, random: randomBytes, client })], options)
}

const configured = (): Promise<SecretStores> => {
  const { config, problems } = readLocalConfig(environment)
  if (problems.length > 0) throw new Error(problems.join('\n'))
  return openStores(config, { clock: systemClock, random: randomBytes, environment })
}

const say = (value: object): void => void process.stdout.write(`${JSON.stringify(value)}\n`)

const stores = emulated() ?? (await configured())
try {
  const material = await stores.read(reference)
  say({ key: createHash('sha256').update(material.privateKey.reveal()).digest('hex') })
  disposeMaterial(material)
} catch (error) {
  const { code, message, hint } = error as JobError
  say({ code, message, hint })
}
await stores.close()
// Whoever still has something to say says it now.
await new Promise((resolve) => setTimeout(resolve, 300))
const { TEST_SNAPSHOT: snapshot } = environment
if (snapshot) {
  for (let n = 0; n < 5; n++) {
    globalThis.gc?.()
    await new Promise((resolve) => setImmediate(resolve))
  }
  writeHeapSnapshot(snapshot)
}
