import { expect, test } from 'vitest'
import { HOST_KEY, inspectResult, stage } from './harness.ts'

const OTHER_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPQ8cv2C0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB'
const PATH = '/api/admin/v4/integrations'
type Scene = Awaited<ReturnType<typeof stage>>

const update = (scene: Scene, ...servers: object[]) =>
  scene.admin.call('PUT', `${PATH}/${scene.integrationId}`, {
    name: 'Behind a bastion',
    integration_config: { servers: JSON.stringify(servers) },
  })
const one = (jumps: unknown) => ({ name: 'db-1', host: '10.1.0.1', jumps })
const jobFor = async (scene: Scene, host: string) => {
  const job = (await scene.fake.claim()).find(({ server }) => server.host === host)
  if (job?.kind !== 'inspect') throw new Error(`no inspection of ${host}`)
  return job
}

test('jump hosts reach the connector in order, as a list or as a ProxyJump', async () => {
  const scene = await stage()
  const list = [
    { host: 'bastion.example.com' },
    {
      host: '2001:db8::7',
      port: '2222',
      user: 'hop',
      secret_store_config: { file: { path: '/run/secrets/hop.json' } },
    },
  ]
  const ways: [unknown, object[]][] = [
    [
      list,
      [
        { host: 'bastion.example.com', port: 22, user: 'apono', hostKeys: [] },
        {
          host: '2001:db8::7',
          port: 2222,
          user: 'hop',
          hostKeys: [],
          secretStore: { type: 'file', path: '/run/secrets/hop.json' },
        },
      ],
    ],
    [
      'ops@bastion:2200, [2001:db8::7]',
      [
        { host: 'bastion', port: 2200, user: 'ops', hostKeys: [] },
        { host: '2001:db8::7', port: 22, user: 'apono', hostKeys: [] },
      ],
    ],
    ['', []],
    [undefined, []],
  ]
  for (const [sent, wanted] of ways) {
    expect((await update(scene, one(sent))).status).toBe(200)
    const job = await jobFor(scene, '10.1.0.1')
    expect(job.server.jumps).toEqual(wanted)
    await scene.fake.succeed(job, inspectResult(job))
  }
})

test.each([
  [[{ host: '-oProxyCommand=x' }], 'servers[0].jumps[0].host'],
  [[{ user: 'a' }], 'servers[0].jumps[0].host'],
  [[{ host: 'b', secret_store_config: {} }], 'servers[0].jumps[0].secret_store_config'],
  ['a@b@c', 'servers[0].jumps[0].host'],
  ['bastion:99999', 'servers[0].jumps[0].port'],
  [Array.from({ length: 9 }, () => ({ host: 'b' })), 'servers[0].jumps'],
])('%j is named as a problem', async (jumps, path) => {
  const scene = await stage()
  const { status, body } = await update(scene, one(jumps))
  expect(status).toBe(400)
  expect(JSON.stringify(body)).toContain(path)
})

test('the first key that a jump host shows is pinned for all; only an admin changes it', async () => {
  const scene = await stage()
  await update(scene, one('bastion'))
  const first = await jobFor(scene, '10.1.0.1')
  const shown = (key: string) => ({ jumps: [{ host: 'bastion', port: 22, hostKeys: [key] }] })
  await scene.fake.succeed(first, inspectResult(first, shown(HOST_KEY)))
  await update(scene, one('bastion'))
  const second = await jobFor(scene, '10.1.0.1')
  expect(second.server.jumps).toMatchObject([{ hostKeys: [HOST_KEY] }])
  await scene.fake.succeed(second, inspectResult(second, shown(OTHER_KEY)))
  await update(scene, one('bastion'))
  const third = await jobFor(scene, '10.1.0.1')
  expect(third.server.jumps).toMatchObject([{ hostKeys: [HOST_KEY] }])
  await scene.fake.succeed(third, inspectResult(third))
  await update(scene, one([{ host: 'bastion', host_keys: [OTHER_KEY] }]))
  expect((await jobFor(scene, '10.1.0.1')).server.jumps).toMatchObject([{ hostKeys: [OTHER_KEY] }])
})

test('an update of something else, with the same list again, forgets no key of a jump host; a new list replaces it', async () => {
  const scene = await stage()
  const sent = (keys: string[] | undefined) => one([{ host: 'bastion', host_keys: keys }])
  await update(scene, sent([]))
  const first = await jobFor(scene, '10.1.0.1')
  await scene.fake.succeed(
    first,
    inspectResult(first, { jumps: [{ host: 'bastion', port: 22, hostKeys: [HOST_KEY] }] }),
  )
  const pinnedAfter = async (keys: string[] | undefined) => {
    await update(scene, sent(keys))
    const job = await jobFor(scene, '10.1.0.1')
    await scene.fake.succeed(job, inspectResult(job))
    return job.server.jumps[0]?.hostKeys
  }
  expect(await pinnedAfter([])).toEqual([HOST_KEY])
  expect(await pinnedAfter(undefined)).toEqual([HOST_KEY])
  expect(await pinnedAfter([])).toEqual([])
  expect(await pinnedAfter([OTHER_KEY])).toEqual([OTHER_KEY])
})

test('what is pinned of a jump host, by the first contact or by an admin, is in the audit', async () => {
  const scene = await stage()
  await update(scene, one('bastion'))
  const first = await jobFor(scene, '10.1.0.1')
  const jumps = [{ host: 'bastion', port: 22, hostKeys: [HOST_KEY] }]
  await scene.fake.succeed(first, inspectResult(first, { jumps }))
  await update(scene, one('bastion'))
  await update(scene, one([{ host: 'bastion', host_keys: [OTHER_KEY] }]))
  const { items } = (await scene.admin.ok('GET', '/api/v1/audit')) as {
    items: { action: string; detail: { jump?: string; was?: string[]; is: string[] } }[]
  }
  const told = items.filter(({ detail }) => detail.jump === 'bastion:22')
  expect(told.map(({ action }) => action).toSorted()).toEqual(['server.host_key_pinned', 'server.host_keys_changed'])
  for (const { detail } of told) expect(detail.is).toHaveLength(1)
})

test('by another way it is another machine: nothing that was learnt holds, and the two take no turns', async () => {
  const scene = await stage()
  await update(scene, one('a'))
  const before = await jobFor(scene, '10.1.0.1')
  await scene.fake.succeed(before, inspectResult(before))
  await update(scene, one('b'), { ...one('a'), name: 'other' })
  const jobs = (await scene.fake.claim()).filter(({ server }) => server.host === '10.1.0.1')
  expect(jobs.map(({ server }) => [server.name, server.jumps.map(({ host }) => host), server.hostKeys])).toEqual(
    expect.arrayContaining([
      ['db-1', ['b'], []],
      ['other', ['a'], []],
    ]),
  )
})
