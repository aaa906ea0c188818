import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { healthUrl } from '../../docker/healthcheck.ts'
import { removeContainers } from '../hosts/cleanup.ts'
import { mustRun } from '../hosts/command.ts'
import { exec, HARDENED, healthOf, inspect, logOf, STOP_MS, start, terminate } from './engine.ts'
import { BUILD_MS, connectorImage } from './image.ts'

// The image by itself; compose.test.ts is about the image at work.

/** Nobody is there: a connector lives without its control plane. */
const CONNECTOR_ENVIRONMENT = [
  '--env=APONO_URL=https://control-plane.invalid',
  '--env=APONO_TOKEN=nobody-will-ever-see-this-one',
  '--env=APONO_CONNECTOR_ID=image-test',
]
// What fails while it starts does not count; once it was healthy, every failure does.
const CHECK_OFTEN = ['--health-interval=1s', '--health-retries=1', '--health-start-period=20s']

let image: string
const started: string[] = []

const startImage = async (options: readonly string[], command: readonly string[] = []): Promise<string> => {
  const id = await start(image, [...HARDENED, ...options], command)
  started.push(id)
  return id
}

beforeAll(async () => {
  image = await connectorImage()
}, BUILD_MS)
afterAll(() => removeContainers(started))

describe('a connector', () => {
  let connector: string
  beforeAll(async () => {
    connector = await startImage([...CONNECTOR_ENVIRONMENT, ...CHECK_OFTEN])
  })

  test('is healthy, by the health check of the image', async () => {
    expect(await healthOf(connector)).toBe('healthy')
    const { State } = await inspect(connector)
    expect(State.Health?.Log.at(-1)?.Output).toContain('http://127.0.0.1:8080/healthz: 200')
  })

  test('is not root, has no capability, and can get none', async () => {
    expect((await inspect(connector)).Config.User).toBe('1000:1000')
    const { stdout } = await exec(connector, ['cat', '/proc/1/status'])
    expect(stdout).toMatch(/^Uid:\t1000\t1000\t1000\t1000$/m)
    expect(stdout).toMatch(/^Gid:\t1000\t1000\t1000\t1000$/m)
    expect(stdout).toMatch(/^CapEff:\t0+$/m)
    expect(stdout).toMatch(/^CapBnd:\t0+$/m)
    expect(stdout).toMatch(/^NoNewPrivs:\t1$/m)
  })

  test('lives on a file system that nothing can be written to', async () => {
    const { code, stderr } = await exec(connector, ['touch', '/tmp/file'])
    expect(stderr).toContain('Read-only file system')
    expect(code).toBe(1)
  })

  test('is not healthy any more when it hangs', async () => {
    await mustRun('docker', ['kill', '--signal=STOP', connector])
    await expect
      .poll(async () => (await inspect(connector)).State.Health?.Status, { timeout: 20_000 })
      .toBe('unhealthy')
    await mustRun('docker', ['kill', '--signal=CONT', connector])
    expect((await inspect(connector)).State.Health?.Log.at(-1)?.Output).toContain('no answer within 5000 ms')
  })

  test('ends in order on SIGTERM', { timeout: STOP_MS }, async () => {
    const { exitCode, seconds } = await terminate(connector)
    expect(await logOf(connector)).toContain('"event":"stopped"')
    expect(exitCode).toBe(0)
    expect(seconds).toBeLessThan(25)
  })
})

test('without configuration it says all that is missing, and ends with 78', async () => {
  const id = await startImage([])
  expect(await mustRun('docker', ['wait', id])).toBe('78\n')
  const log = await logOf(id)
  for (const name of ['APONO_URL', 'APONO_TOKEN or APONO_TOKEN_FILE', 'APONO_CONNECTOR_ID']) {
    expect(log).toContain(`${name}: required`)
  }
})

test('with an init, SIGTERM is heard in the first moments too', { timeout: STOP_MS }, async () => {
  const id = await startImage(['--init', ...CONNECTOR_ENVIRONMENT])
  const { exitCode, seconds } = await terminate(id)
  expect([0, 143]).toContain(exitCode)
  expect(seconds).toBeLessThan(25)
})

test('holds what it runs, for production, and nothing else', async () => {
  const id = await startImage(['--entrypoint=sh'], ['-c', 'ls -A /app /app/docker; ls /app/node_modules'])
  await mustRun('docker', ['wait', id])
  const names = (await logOf(id)).split('\n')
  expect(names).toEqual(expect.arrayContaining(['src', 'package.json', 'healthcheck.ts', 'ssh2', 'sshpk', 'zod']))
  for (const absent of ['test', 'compose.yaml', 'vitest', 'typescript', 'testcontainers', 'node', '.git']) {
    expect(names).not.toContain(absent)
  }
})

test('its folder for state takes a new volume, and then the control plane runs in it', async () => {
  const id = await startImage(['--volume=/var/lib/apono/control-plane', ...CHECK_OFTEN], ['control-plane'])
  expect(await healthOf(id)).toBe('healthy')
  expect((await inspect(id)).State.Health?.Log.at(-1)?.Output).toContain('http://127.0.0.1:8443/healthz: 200')
  expect((await terminate(id)).exitCode).toBe(0)
  await removeContainers([id])
})

describe('what the health check asks', () => {
  test.for([
    ['connector', {}, 'http://127.0.0.1:8080/healthz'],
    ['connector', { APONO_HEALTH_LISTEN: '10.0.0.7:9000' }, 'http://10.0.0.7:9000/healthz'],
    ['connector', { APONO_HEALTH_LISTEN: '[::]:9000' }, 'http://127.0.0.1:9000/healthz'],
    ['connector', { APONO_HEALTH_LISTEN: 'off' }, undefined],
    ['control-plane', {}, 'http://127.0.0.1:8443/healthz'],
    ['control-plane', { APONO_LISTEN: ':443', APONO_TLS_CERT_FILE: '/c' }, 'https://127.0.0.1/healthz'],
    ['standalone', { APONO_LISTEN: '[::1]:8443', APONO_HEALTH_LISTEN: 'off' }, 'http://[::1]:8443/healthz'],
  ] as const)('%s with %j: %s', ([verb, environment, url]) => {
    expect(healthUrl(verb, environment)?.href).toBe(url)
  })
})
