import { mkdirSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { type KeyPair, keygen } from '../test/hosts/openssh.ts'
import { scratchDirectory } from '../test/hosts/scratch.ts'
import { type Api, createApi, waitFor } from '../test/standalone/api.ts'
import { startStandaloneProcess } from '../test/standalone/standalone-process.ts'
import { againstTarget, type Subject } from './measure.ts'

/**
 * From the call that approves a request to the grant that is live, by the shipped command with its embedded control
 * plane, warm. It counts as live when the public API says Active, which is after the server has it and the report of it
 * has come back: an upper bound. p95 of {@link ROUNDS}.
 *
 * The login exists and is on, by another grant of the person; `.revived`: it exists and was locked with its last grant;
 * `.creating`: it is made.
 */
const ROUNDS = 40
const TARGET_EXISTING_MS = 100
const TARGET_CREATING_MS = 200

interface Stage {
  readonly admin: Api
  readonly resourceId: string
  readonly key: KeyPair
  readonly url: string
}

const p95 = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.ceil(values.length * 0.95) - 1] ?? Number.NaN

const newPerson = async ({ admin, url }: Stage, email: string): Promise<Api> => {
  const user = await admin.post<{ id: string }>('/api/v1/users', { email })
  const { token } = await admin.post<{ token: string }>(`/api/v1/users/${user.id}/tokens`)
  return createApi(url, token)
}

const approve = async ({ admin, resourceId, key }: Stage, person: Api): Promise<{ ms: number; id: string }> => {
  const [made] = await person.post<readonly { id: string }[]>('/api/user/v4/access-requests', {
    entitlements: [{ resource_id: resourceId, permission_id: 'dbadmins' }],
    duration_in_sec: 3600,
    justification: 'bench',
    custom_fields: { public_key: key.publicKey },
  })
  if (made === undefined) throw new Error('the request was not made')
  const asked = performance.now()
  await admin.post(`/api/v1/access-requests/${made.id}/approve`)
  for (;;) {
    const { status } = await person.get<{ status: string }>(`/api/user/v4/access-requests/${made.id}`)
    if (status === 'Active') return { ms: performance.now() - asked, id: made.id }
    if (status === 'Failed') throw new Error('the grant failed')
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

const integrate = async (admin: Api, host: TestHost, secretDirectory: string): Promise<string> => {
  mkdirSync(secretDirectory, { recursive: true, mode: 0o700 })
  const secret = JSON.stringify({ base64_private_key: Buffer.from(host.connectorKey).toString('base64') })
  const file = path.join(secretDirectory, 'ssh.json')
  writeFileSync(file, secret, { mode: 0o600 })
  const { id } = await admin.post<{ id: string }>('/api/admin/v4/integrations', {
    name: 'Bench servers',
    type: 'ssh',
    connector_id: 'standalone',
    integration_config: {
      servers: JSON.stringify([{ name: 'one', host: host.address, port: host.port }]),
      user_groups: 'dbadmins',
    },
    secret_store_config: { file: { path: file } },
  })
  await waitFor(
    'the integration to become Active',
    () => admin.get<{ status: string }>(`/api/admin/v4/integrations/${id}`),
    ({ status }) => status === 'Active',
  )
  const { data } = await admin.get<{ data: readonly { id: string }[] }>(`/api/v3/integrations/${id}/resources`)
  return data[0]?.id ?? ''
}

const creating = async (stage: Stage): Promise<number[]> => {
  const values: number[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    const { ms } = await approve(stage, await newPerson(stage, `new${round}@example.com`))
    if (round > 0) values.push(ms)
  }
  return values
}

/** Each of them the same person's next grant; `kept`: besides one that lives on. */
const existing = async (stage: Stage, email: string, kept: boolean): Promise<number[]> => {
  const person = await newPerson(stage, email)
  if (kept) await approve(stage, person)
  const values: number[] = []
  for (let round = 0; round <= ROUNDS; round++) {
    const { ms, id } = await approve(stage, person)
    if (round > 0) values.push(ms)
    await person.post(`/api/user/v4/access-requests/${id}/revoke`)
    await waitFor(
      'the end',
      () => person.get<{ status: string }>(`/api/user/v4/access-requests/${id}`),
      ({ status }) => status !== 'Active' && status !== 'Revoking',
    )
  }
  return values
}

export const transportApproval: Subject = async function* (only) {
  const live = 'transport.approval_to_live'
  const [revived, created] = [`${live}.revived`, `${live}.creating`]
  if (![live, revived, created].some((name) => name.startsWith(only))) return
  const host = await startHost()
  const standalone = await startStandaloneProcess(path.join(scratchDirectory(), 'bench-state'))
  try {
    const admin = createApi(standalone.url, standalone.adminToken ?? '')
    const resourceId = await integrate(admin, host, standalone.secretDirectory)
    const stage = { admin, resourceId, key: await keygen(), url: standalone.url }
    const figure = (name: string, values: readonly number[], target: number) =>
      againstTarget(name, p95(values), 'ms', target)
    if (live.startsWith(only)) {
      yield figure(live, await existing(stage, 'dana@example.com', true), TARGET_EXISTING_MS)
    }
    if (revived.startsWith(only)) {
      yield figure(revived, await existing(stage, 'eve@example.com', false), TARGET_EXISTING_MS)
    }
    if (created.startsWith(only)) yield figure(created, await creating(stage), TARGET_CREATING_MS)
  } finally {
    await standalone.stop()
    await host.stop()
  }
}
