import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { fingerprintOfLine } from '../../src/protocol/public-key.ts'
import {
  absentResult,
  dig,
  HOST_KEY,
  inspectResult,
  integrationBody,
  OWN_KEY as NEW_KEY,
  presentResult,
  type Scene,
  stage,
  start,
} from './harness.ts'

const THIRD_KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxjPlNZ+WpRpxTjtk6Crq5HyEmnw0Ln3MjzjpuqaaM1'
const INTEGRATIONS = '/api/admin/v4/integrations'
const WEB_1 = { name: 'web-1', host: '10.0.0.1' }

const servers = (...list: object[]) => integrationBody({}, { servers: JSON.stringify(list) })

/** One server whose integration says `web1`; nothing has been seen of it yet. */
const begin = async (web1: object = WEB_1) => {
  const world = await start()
  const fake = await world.connector()
  await fake.register()
  const { id } = await world.admin.ok('POST', INTEGRATIONS, servers(web1))
  return {
    ...world,
    fake,
    update: (changed: object) => world.admin.ok('PUT', `${INTEGRATIONS}/${id}`, servers(changed)),
    resource: async (): Promise<Record<string, unknown>> =>
      Object(dig(await world.admin.ok('GET', `/api/v3/integrations/${id}/resources`), 'data', 0)),
    integration: () => world.admin.ok('GET', `${INTEGRATIONS}/${id}`),
    actions: async () => {
      const { items } = (await world.admin.ok('GET', '/api/v1/audit')) as { items: { action: string }[] }
      return items.filter(({ action }) => action.startsWith('server.host_key'))
    },
  }
}

const inspected = async (scene: Pick<Scene, 'fake'>, hostKeys: string[]): Promise<void> => {
  const job = await scene.fake.claimOne()
  if (job.kind !== 'inspect') throw new Error('inspection expected')
  expect(await scene.fake.succeed(job, inspectResult(job, { hostKeys }))).toBe('accepted')
}

describe('the first key that is seen', () => {
  test('by an inspection is pinned, for the jobs of every instance, and audited', async () => {
    const scene = await begin()
    await inspected(scene, [HOST_KEY])
    scene.fake.instanceId = randomUUID()
    await scene.fake.register()
    await scene.update(WEB_1)
    expect((await scene.fake.claimOne()).server.hostKeys).toEqual([HOST_KEY])
    expect(await scene.actions()).toMatchObject([
      {
        action: 'server.host_key_pinned',
        actor: 'system',
        detail: { name: 'web-1', is: [`ssh-ed25519 ${fingerprintOfLine(HOST_KEY)}`] },
      },
    ])
  })

  test('by a grant is pinned, and a second one that is reported at the same time does not replace it', async () => {
    const scene = await stage()
    await scene.admin.ok('PUT', `${INTEGRATIONS}/${scene.integrationId}`, servers({ ...WEB_1, host_keys: [] }))
    const look = await scene.fake.claimOne()
    if (look.kind !== 'inspect') throw new Error('inspection expected')
    await scene.grant()
    // The other instance begins when the lease of the first has ended, while that one is still on the server.
    scene.clock.advance(61_000)
    await scene.fake.register()
    const job = await scene.fake.claimEnsure()
    expect([look.server.hostKeys, job.server.hostKeys]).toEqual([[], []])
    expect(await scene.fake.succeed(job, presentResult(job, { hostKeys: [NEW_KEY] }))).toBe('accepted')
    expect(await scene.fake.succeed(look, inspectResult(look, { hostKeys: [THIRD_KEY] }))).toBe('accepted')
    const [resource] = (await scene.admin.ok('GET', `/api/v3/integrations/${scene.integrationId}/resources`))[
      'data'
    ] as object[]
    expect(resource).toMatchObject({ name: 'web-1', host_keys: [NEW_KEY] })
  })

  test('is pinned with no more keys than a job may carry', async () => {
    const scene = await begin()
    await inspected(scene, Array(100).fill(HOST_KEY))
    await scene.update(WEB_1)
    expect((await scene.fake.claimOne()).server.hostKeys).toHaveLength(64)
  })
})

describe('a key that was refused', () => {
  test('is shown beside the pinned one, by fingerprint and in full, and is not pinned', async () => {
    const scene = await begin()
    await inspected(scene, [HOST_KEY])
    await scene.update(WEB_1)
    await scene.fake.fail(await scene.fake.claimOne(), 'host_key_changed', { hostKeys: [NEW_KEY] })
    const shown = `Shown: ssh-ed25519 ${fingerprintOfLine(NEW_KEY)}\nPinned: ssh-ed25519 ${fingerprintOfLine(HOST_KEY)}`
    const details = `host_key_changed happened\n${shown}\nmend host_key_changed`
    expect(await scene.resource()).toMatchObject({
      status: { status: 'Error', message: details },
      host_keys: [HOST_KEY],
      presented_host_keys: [NEW_KEY],
    })
    expect(await scene.integration()).toMatchObject({ status: 'Error', details })
    expect(await scene.actions()).toHaveLength(1)
  })

  test('is not said twice where the connector has said it', async () => {
    const scene = await begin()
    await inspected(scene, [HOST_KEY])
    await scene.update(WEB_1)
    const message = `shows ${fingerprintOfLine(NEW_KEY)}, known ${fingerprintOfLine(HOST_KEY)}`
    await scene.fake.fail(await scene.fake.claimOne(), 'host_key_changed', { hostKeys: [NEW_KEY], message, hint: '' })
    expect(await scene.resource()).toMatchObject({ status: { message } })
  })

  test('by a grant is shown on the server too', async () => {
    const scene = await stage()
    await scene.grant()
    await scene.fake.fail(await scene.fake.claimEnsure(), 'host_key_changed', { hostKeys: [NEW_KEY] })
    const { data } = await scene.admin.ok('GET', `/api/v3/integrations/${scene.integrationId}/resources`)
    expect(dig(data, 0)).toMatchObject({
      status: { status: 'Error', message: expect.stringContaining(fingerprintOfLine(NEW_KEY)) },
      host_keys: [HOST_KEY],
      presented_host_keys: [NEW_KEY],
    })
  })
})

describe('host_keys of a server in the integration', () => {
  test('are pinned from the start, without comments, each once', async () => {
    const scene = await begin({ ...WEB_1, host_keys: [`${NEW_KEY} root@web-1`, NEW_KEY, THIRD_KEY] })
    await inspected(scene, [HOST_KEY])
    expect(await scene.resource()).toMatchObject({ host_keys: [NEW_KEY, THIRD_KEY] })
  })

  test.each([
    ['no list', 'x', 'servers[0].host_keys: must be a list of host keys'],
    ['no key', ['x'], 'servers[0].host_keys[0]: '],
    ['a number', [1], 'servers[0].host_keys[0]: must be a host key'],
    ['two lines', [`${NEW_KEY}\n${NEW_KEY}`], 'servers[0].host_keys[0]: one key on one line'],
    ['a private key', ['-----BEGIN OPENSSH PRIVATE KEY-----'], 'servers[0].host_keys[0]: this is a private key'],
    ['too many', Array(65).fill(NEW_KEY), 'servers[0].host_keys: at most 64'],
  ])('%s is refused', async (_name, keys, expected) => {
    const scene = await begin()
    const answer = await scene.admin.call('POST', INTEGRATIONS, servers({ ...WEB_1, host_keys: keys }))
    expect(answer.status).toBe(400)
    const [error] = answer.body['errors'] as { path: string; message: string }[]
    expect(`${error?.path}: ${error?.message}`).toContain(expected)
  })

  test('accept a changed key: the next job has it, and the audit says who did it', async () => {
    const scene = await begin()
    await inspected(scene, [HOST_KEY])
    const other = await scene.person('eve@example.com')
    expect((await other.call('PUT', `${INTEGRATIONS}/x`, servers(WEB_1))).status).toBe(403)
    await scene.update({ ...WEB_1, host_keys: [NEW_KEY] })
    expect((await scene.fake.claimOne()).server.hostKeys).toEqual([NEW_KEY])
    const [entry] = await scene.actions()
    expect(entry).toMatchObject({
      action: 'server.host_keys_changed',
      actor: expect.stringMatching(/^usr_/),
      detail: {
        name: 'web-1',
        was: [`ssh-ed25519 ${fingerprintOfLine(HOST_KEY)}`],
        is: [`ssh-ed25519 ${fingerprintOfLine(NEW_KEY)}`],
      },
    })
  })

  test('cleared, make the next key a first one, and it is audited', async () => {
    const scene = await begin()
    await inspected(scene, [HOST_KEY])
    await scene.update({ ...WEB_1, host_keys: [] })
    expect(await scene.resource()).toMatchObject({ host_keys: [] })
    await inspected(scene, [NEW_KEY])
    expect(await scene.resource()).toMatchObject({ host_keys: [NEW_KEY] })
    const is = [`ssh-ed25519 ${fingerprintOfLine(NEW_KEY)}`]
    expect(await scene.actions()).toMatchObject([
      { action: 'server.host_key_pinned', detail: { is } },
      { action: 'server.host_keys_changed', detail: { is: [] } },
      { action: 'server.host_key_pinned' },
    ])
  })

  test('sent again unchanged, or not sent, change nothing', async () => {
    const scene = await begin({ ...WEB_1, host_keys: [] })
    await inspected(scene, [HOST_KEY])
    await scene.update({ ...WEB_1, host_keys: [], tags: { a: 'b' } })
    expect(await scene.resource()).toMatchObject({ host_keys: [HOST_KEY], tags: { a: 'b' } })
    await scene.update({ ...WEB_1, host_keys: [NEW_KEY] })
    await scene.update(WEB_1)
    await scene.update({ ...WEB_1, host_keys: null })
    expect(await scene.resource()).toMatchObject({ host_keys: [NEW_KEY] })
    expect(await scene.actions()).toHaveLength(2)
  })

  test('at a new address the former ones are forgotten, and those that are sent count', async () => {
    const scene = await begin({ ...WEB_1, host_keys: [NEW_KEY] })
    await scene.update({ ...WEB_1, host: '10.0.0.77', host_keys: [NEW_KEY] })
    expect(await scene.resource()).toMatchObject({ host_keys: [NEW_KEY] })
    await scene.update({ ...WEB_1, host: '10.0.0.78' })
    expect(await scene.resource()).toMatchObject({ host_keys: [] })
  })
})

describe('access that was given before', () => {
  const ended = async (hostKeys: string[]) => {
    const scene = await stage()
    const id = await scene.grant({ publicKey: '' })
    await scene.fake.work()
    const path = `${INTEGRATIONS}/${scene.integrationId}`
    const details = async () => {
      const list = await scene.dana.ok('GET', '/api/user/v1/access-sessions')
      return scene.dana.ok('GET', `/api/user/v1/access-sessions/${dig(list, 'items', 0, 'id')}/access-details`)
    }
    const accept = () => scene.admin.ok('PUT', path, servers({ ...WEB_1, host_keys: hostKeys }))
    const revoke = () => scene.dana.ok('POST', `/api/user/v4/access-requests/${id}/revoke`)
    return { ...scene, accept, revoke, details, path }
  }

  test('is ended with the accepted key, at once, though its end was waiting after failures', async () => {
    const scene = await ended([NEW_KEY])
    await scene.revoke()
    for (const wait of [15_000, 30_000, 60_000]) {
      await scene.fake.fail(await scene.fake.claimEnsure(), 'host_key_changed', { hostKeys: [NEW_KEY] })
      if (wait < 60_000) scene.clock.advance(wait)
    }
    expect(await scene.fake.claim()).toEqual([])
    await scene.accept()
    const job = await scene.fake.claimEnsure()
    expect(job).toMatchObject({ grant: { state: 'absent' }, server: { hostKeys: [NEW_KEY] } })
    await scene.fake.succeed(job, absentResult(job))
    expect(await scene.newestGrant()).toMatchObject({ status: 'Revoked', closed: { how: 'confirmed' } })
  })

  test('tells the person the accepted key', async () => {
    const scene = await ended([NEW_KEY])
    await scene.accept()
    expect(dig(await scene.details(), 'parameters', 'host_keys')).toBe(NEW_KEY)
  })

  test('is ended by first use where the keys were cleared', async () => {
    const scene = await ended([])
    await scene.accept()
    await scene.revoke()
    expect(await scene.fake.claimEnsure()).toMatchObject({ grant: { state: 'absent' }, server: { hostKeys: [] } })
  })

  test('keeps its keys where the server was moved away and back: nobody said that they are others', async () => {
    const scene = await ended([])
    await scene.admin.ok('PUT', scene.path, servers({ ...WEB_1, host: '10.0.0.77', host_keys: [NEW_KEY] }))
    await scene.admin.ok('PUT', scene.path, servers(WEB_1))
    await scene.revoke()
    expect(await scene.fake.claimEnsure()).toMatchObject({ server: { host: WEB_1.host, hostKeys: [HOST_KEY] } })
  })
})
