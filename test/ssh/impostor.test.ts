import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type Direction, packetEnds } from './fault-proxy.ts'
import { type Impostor, startImpostor } from './impostor.ts'
import { linesTo } from './lines.ts'
import { codeOf, failure, grantFor, hopTo, makePool, routeTo, run } from './workbench.ts'

// Somebody with another key takes the server's place, at each moment at which that is possible. Whoever that is gets
// neither a login, which would say which key opens the server, nor a byte of the program.

let host: TestHost
let good: Record<Direction, Buffer>
let impostor: Impostor
const lines = linesTo(() => host)
const { open } = lines

beforeAll(async () => {
  host = await startHost()
  good = await lines.record()
}, 120_000)
afterAll(() => host?.stop())
beforeEach(async () => {
  lines.begin()
  impostor = await startImpostor()
})
afterEach(async () => {
  await impostor.close()
  await lines.end()
})

const gotNothing = (): void => {
  expect(impostor.connections()).toBeGreaterThan(0)
  expect(impostor.logins()).toEqual([])
  expect(impostor.taken()).toBe('')
}

describe('an impostor gets no login and no program', () => {
  test('at the first contact', async () => {
    const { proxy, bench } = await open()
    proxy.lead(impostor.port)
    const outcome = await bench.ensure(grantFor('first'), 'present')
    expect(outcome).toMatchObject({ outcome: 'failed', error: { code: 'host_key_changed', retryable: false } })
    if (outcome.outcome === 'failed') expect(outcome.error.hostKeys).toEqual([impostor.hostKey])
    gotNothing()
  })

  test('between two jobs', async () => {
    const { proxy, pool, bench } = await open()
    expect(codeOf(await bench.ensure(grantFor('second'), 'present'))).toBe('succeeded')
    proxy.stop('end')
    proxy.lead(impostor.port)
    await expect.poll(() => pool.stats().open).toBe(0)
    expect(codeOf(await bench.ensure(grantFor('second'), 'absent'))).toBe('host_key_changed')
    gotNothing()
    proxy.lead(host.port)
    expect(codeOf(await bench.ensure(grantFor('second'), 'absent'))).toBe('succeeded')
  })

  test.each(['reset', 'end'] as const)('when a job that lost its connection by %s runs again', async (how) => {
    const { proxy, bench } = await open()
    proxy.plan({ cut: { direction: 'up', after: (packetEnds(good.up).at(-3) ?? 0) - 1000, how } })
    const job = bench.ensure(grantFor(`lost-${how}`), 'present')
    await expect.poll(() => proxy.count(), { interval: 1 }).toBe(1)
    proxy.lead(impostor.port)
    expect(codeOf(await job)).toBe('host_key_changed')
    expect(proxy.count()).toBe(2)
    gotNothing()
  })

  test('in the place of a jump host', async () => {
    const { proxy, pool } = await open()
    proxy.lead(impostor.port)
    const behind = hopTo(host, { port: 22 })
    const error = await failure(run(pool, routeTo(hopTo(host, { port: proxy.port }), behind), 'true'))
    expect(error).toMatchObject({ code: 'host_key_changed' })
    expect(error.message).toMatch(/^jump host /)
    gotNothing()
  })

  test('behind an honest jump host', async () => {
    const { pool, route } = await open()
    const inner = hopTo(host, { port: 2222 })
    const through = routeTo(route.target, { ...inner, server: { ...inner.server, addresses: [] } })
    const start = async (options: string) =>
      expect((await host.exec(`/usr/sbin/sshd -p 2222 -o PidFile=/run/sshd-2222.pid ${options}`)).code).toBe(0)
    const stop = () => host.exec('kill "$(cat /run/sshd-2222.pid)"; pkill -u apono sshd; true')
    await start('')
    expect((await run(pool, through, 'echo honest')).stdout).toBe('honest\n')
    await stop()
    await expect.poll(() => pool.stats().open).toBe(0)
    await host.exec("ssh-keygen -q -t ed25519 -N '' -f /root/other")
    await start('-o LogLevel=DEBUG3 -h /root/other -E /root/impostor.log')
    expect((await failure(run(pool, through, 'true'))).code).toBe('host_key_changed')
    const { stdout: log } = await host.exec('cat /root/impostor.log')
    await stop()
    expect(log).toContain('Connection from 127.0.0.1')
    expect(log).not.toContain('userauth-request')
  })

  test('when keys are agreed on anew on a connection that stands', async () => {
    const pool = makePool()
    const route = routeTo(hopTo(host, { port: impostor.port, known: [impostor.hostKey] }))
    // Until here it is the server that we know.
    const lost = failure(run(pool, route, 'wait', { stdin: 'before' }))
    await expect.poll(() => impostor.taken()).toBe('before')
    await impostor.changeKey()
    expect((await lost).code).toBe('connection_lost')
    const logins = [...impostor.logins()]
    expect(logins.length).toBeGreaterThan(0)
    // By the name of another key, on a connection of its own, it gets no further either.
    await impostor.close()
    const successor = await startImpostor()
    const after = routeTo(hopTo(host, { port: successor.port, known: [impostor.hostKey] }))
    expect((await failure(run(pool, after, 'anything', { stdin: 'after' }))).code).toBe('host_key_changed')
    expect(impostor.logins()).toEqual(logins)
    expect([impostor.taken(), successor.taken()]).toEqual(['before', ''])
    await successor.close()
    await pool.close()
  })
})
