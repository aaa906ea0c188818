import { afterEach, describe, expect, test } from 'vitest'
import { createHealth, type HealthServer, serveHealth } from '../../src/observability/health.ts'
import { createMetrics } from '../../src/observability/metrics.ts'
import { fakeClock } from './fake-clock.ts'
import { startFakeControlPlane } from './fake-control-plane.ts'
import { startTestConnector } from './setup.ts'

let server: HealthServer | null = null
afterEach(async () => {
  await server?.close()
  server = null
})
const get = async (port: number, path = '/healthz', method = 'GET'): Promise<number> =>
  (await fetch(`http://127.0.0.1:${port}${path}`, { method })).status

const SANE = { isClockSane: () => true }
const quiet = { open: 0, connecting: 0, inUse: 0, circuits: [] }
const metrics = () => createMetrics(() => quiet)

describe('metrics', () => {
  test('tell connections, and servers that are left alone for as long as they are', async () => {
    let circuits = [{ server: 'apono@db-1:22', state: 'open' }]
    const numbers = createMetrics(() => ({ open: 3, connecting: 1, inUse: 2, circuits }))
    numbers.circuitOpened()
    server = await serveHealth(
      createHealth({ ...SANE, clock: fakeClock(), staleAfterMs: () => 1 }),
      numbers,
      '127.0.0.1',
      0,
    )
    const read = async () => await (await fetch(`http://127.0.0.1:${server?.port}/metrics`)).text()
    const text = await read()
    for (const line of [
      'apono_ssh_connections{state="open"} 3',
      'apono_ssh_connections{state="connecting"} 1',
      'apono_ssh_connections{state="in_use"} 2',
      'apono_ssh_circuits{state="open"} 1',
      'apono_ssh_circuits{state="half_open"} 0',
      'apono_ssh_circuit_state{server="apono@db-1:22",state="open"} 1',
      'apono_ssh_circuits_opened_total 1',
    ]) {
      expect(text.split('\n')).toContain(line)
    }
    circuits = []
    expect(await read()).not.toContain('db-1')
  })
})

describe('health', () => {
  test('is ready once a claim was answered, for 90 s, and while the clocks agree; and says why not', async () => {
    const clock = fakeClock()
    let sane = true
    const health = createHealth({ clock, staleAfterMs: () => 1000, isClockSane: () => sane })
    server = await serveHealth(health, metrics(), '127.0.0.1', 0)
    const ready = async () => {
      const response = await fetch(`http://127.0.0.1:${server?.port}/readyz`)
      return [response.status, (await response.text()).trim()]
    }
    expect(await ready()).toEqual([503, 'no claim has succeeded for 90 s'])
    health.claimed()
    await clock.advance(90_000)
    expect(await ready()).toEqual([200, 'ready'])
    sane = false
    expect(await ready()).toEqual([503, 'the clock is more than 60 s off'])
    sane = true
    await clock.advance(1)
    expect(await ready()).toEqual([503, 'no claim has succeeded for 90 s'])
  })

  test('is 200 while the loop turns, and 503 once it has not for too long', async () => {
    const clock = fakeClock()
    const health = createHealth({ ...SANE, clock, staleAfterMs: () => 120_000 })
    server = await serveHealth(health, metrics(), '127.0.0.1', 0)
    expect(await get(server.port)).toBe(200)
    await clock.advance(120_001)
    expect(await get(server.port)).toBe(503)
    health.beat()
    expect(await get(server.port)).toBe(200)
    expect(await get(server.port, '/other')).toBe(404)
    expect(await get(server.port, '/healthz', 'POST')).toBe(404)
  })

  test('a control plane that is away does not make a connector unhealthy', async () => {
    const controlPlane = await startFakeControlPlane()
    await controlPlane.close()
    const { connector } = await startTestConnector(controlPlane, { env: { APONO_HEALTH_LISTEN: '127.0.0.1:0' } })
    expect(await get(connector.healthPort ?? 0)).toBe(200)
    await connector.stop()
    await expect(get(connector.healthPort ?? 0)).rejects.toThrow()
  })

  test('an address that is taken is an error at the start', async () => {
    server = await serveHealth(
      createHealth({ ...SANE, clock: fakeClock(), staleAfterMs: () => 1 }),
      metrics(),
      '127.0.0.1',
      0,
    )
    await expect(
      serveHealth(
        createHealth({ ...SANE, clock: fakeClock(), staleAfterMs: () => 1 }),
        metrics(),
        '127.0.0.1',
        server.port,
      ),
    ).rejects.toThrow('EADDRINUSE')
  })
})
