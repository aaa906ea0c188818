import { expect, test } from 'vitest'
import type { InspectResult, Problem } from '../../src/protocol/results.ts'
import { dig, inspectResult, integrationBody, start } from './harness.ts'

// What a look at a server finds is for people: all of it is on the resource, and only errors make it `Error`.

const NEXT_KEY: Problem = {
  code: 'next_key_not_taken',
  message: 'the server takes the current key of the connector and not yet the next one (10.0.0.1:22)',
  hint: "printf '\\n%s\\n' 'ssh-ed25519 AAAA' >>~apono/.ssh/authorized_keys",
  severity: 'warning',
}
const READ_ONLY: Problem = { code: 'read_only', message: '/etc is read-only', hint: 'remount it', severity: 'error' }

const inspected = async (changes: Partial<InspectResult>) => {
  const world = await start()
  const fake = await world.connector()
  await fake.register()
  const servers = JSON.stringify([{ name: 'web-1', host: '10.0.0.1' }])
  const { id } = await world.admin.ok('POST', '/api/admin/v4/integrations', integrationBody({}, { servers }))
  const resource = async () => dig(await world.admin.ok('GET', `/api/v3/integrations/${id}/resources`), 'data', 0)
  const before = await resource()
  const job = await fake.claimOne()
  if (job.kind !== 'inspect') throw new Error('inspection expected')
  expect(await fake.succeed(job, inspectResult(job, changes))).toBe('accepted')
  return {
    before,
    after: await resource(),
    integration: await world.admin.ok('GET', `/api/admin/v4/integrations/${id}`),
  }
}

test('a server that still needs the old key says so, and how to mend it, and is Active', async () => {
  const { before, after, integration } = await inspected({ loginKey: 'current', problems: [NEXT_KEY] })
  expect(before).toMatchObject({ login_key: null, problems: [] })
  expect(after).toMatchObject({ status: { status: 'Active' }, login_key: 'current', problems: [NEXT_KEY] })
  expect(integration).toMatchObject({ status: 'Active' })
})

test('a warning does not stand before an error, and both are shown', async () => {
  const { after } = await inspected({ loginKey: 'current', problems: [NEXT_KEY, READ_ONLY] })
  expect(after).toMatchObject({
    status: { status: 'Error', message: expect.stringContaining('/etc is read-only') },
    problems: [NEXT_KEY, READ_ONLY],
  })
})

test('a connector that knows nothing of two keys is understood', async () => {
  const { after } = await inspected({})
  expect(after).toMatchObject({ status: { status: 'Active' }, login_key: null, problems: [] })
})
