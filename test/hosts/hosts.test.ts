import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { removeContainers, sweepDeadRuns } from './cleanup.ts'
import { mustRun, runCommand } from './command.ts'
import { startHost, type TestHost } from './hosts.ts'
import { keygen, sshLogin, sshSession } from './openssh.ts'
import { RUN_VARIABLE } from './run.ts'

type Inspected = {
  HostConfig: { Privileged: boolean; Init: boolean; CapAdd: string[] | null; Binds: string[] | null }
  NetworkSettings: { Ports: Record<string, { HostIp: string; HostPort: string }[] | null> }
}

async function inspect(name: string): Promise<Inspected> {
  const [inspected]: Inspected[] = JSON.parse(await mustRun('docker', ['inspect', name]))
  if (inspected === undefined) throw new Error(`the engine does not know ${name}`)
  return inspected
}

const exists = async (name: string) => (await runCommand('docker', ['inspect', name])).code === 0

describe('a test host', () => {
  let host: TestHost
  let startMs: number

  beforeAll(async () => {
    const begun = performance.now()
    host = await startHost()
    startMs = performance.now() - begun
  })
  afterAll(() => host?.stop())

  test('starts in under two seconds', ({ annotate }) => {
    expect(startMs).toBeLessThan(2000)
    return annotate(`started in ${Math.round(startMs)} ms`)
  })

  test('is published on 127.0.0.1 only, is not privileged, and has an init', async () => {
    const { HostConfig, NetworkSettings } = await inspect(host.name)
    const published = Object.values(NetworkSettings.Ports).flatMap((bindings) => bindings ?? [])
    expect(published).toEqual([{ HostIp: '127.0.0.1', HostPort: String(host.port) }])
    expect(HostConfig.Privileged).toBe(false)
    expect(HostConfig.CapAdd ?? []).toEqual([])
    expect(HostConfig.Binds ?? []).toEqual([])
    expect(HostConfig.Init).toBe(true)
  })

  test('lets the connector in by key, and by sudo to root', async () => {
    const result = await sshLogin({
      host,
      user: 'apono',
      privateKeyPath: host.connectorKeyPath,
      command: 'id -un && sudo -n id -u',
    })
    expect(result).toEqual({ code: 0, stdout: 'apono\n0\n', stderr: '' })
    expect(await host.log()).toContain('Accepted publickey for apono')
  })

  test('refuses another key', async () => {
    const { privateKeyPath } = await keygen()
    const result = await sshLogin({ host, user: 'apono', privateKeyPath, command: 'true' })
    expect(result.code).toBe(255)
    expect(result.stderr).toContain('Permission denied')
  })

  test('is not believed under another host key', async () => {
    const other = await keygen()
    const target = { address: host.address, port: host.port, hostKeys: [other.publicKey] }
    const result = await sshLogin({
      host: target,
      user: 'apono',
      privateKeyPath: host.connectorKeyPath,
      command: 'true',
    })
    expect(result.code).toBe(255)
    expect(result.stderr).toContain('Host key verification failed')
  })

  test('shows its accounts and processes as they are', async () => {
    expect(await host.passwd('nobody-here')).toBeUndefined()
    expect(await host.shadow('nobody-here')).toBeUndefined()
    expect(await host.groupsOf('nobody-here')).toEqual([])
    await host.exec(['useradd', '--create-home', '--groups', 'dbadmins,developers', 'dana'])
    const entry = await host.passwd('dana')
    expect(entry).toMatchObject({ login: 'dana', home: '/home/dana' })
    expect(await host.groupsOf('dana')).toEqual(['dana', 'dbadmins', 'developers'])
    expect(await host.shadow('dana')).toMatchObject({ locked: true, expires: '' })
    expect(await host.processesOf(entry?.uid ?? -1)).toEqual([])
  })

  test('runs a person’s session with their loginuid, and a kill ends it', async () => {
    const key = await keygen()
    const setup = await host.exec(
      'install -d -m 0700 -o apono /home/apono/.ssh && cat >>/home/apono/.ssh/authorized_keys',
      { input: `${key.publicKey}\n` },
    )
    expect(setup.code).toBe(0)
    const session = sshSession({ host, user: 'apono', privateKeyPath: key.privateKeyPath })
    await session.ready
    session.write('sudo -n sleep 1000 & echo started-$!\n')
    await expect.poll(() => session.output()).toMatch(/started-\d/)
    const uid = (await host.passwd('apono'))?.uid ?? -1
    const asRoot = (await host.processesOf(uid)).filter(({ uids }) => !uids.includes(uid))
    expect(asRoot.map(({ command }) => command)).toContain('sleep 1000')
    await host.exec(['pkill', '-KILL', '-u', String(uid)])
    await host.exec(['pkill', '-KILL', '-x', 'sleep'])
    expect(await session.closed).toBe(255)
    await expect.poll(() => host.processesOf(uid)).toEqual([])
  })
})

test('a host can be set up broken, and a set-up that fails leaves nothing', async () => {
  const host = await startHost({ setup: 'rm /etc/sudoers.d/apono' })
  const result = await sshLogin({ host, user: 'apono', privateKeyPath: host.connectorKeyPath, command: 'sudo -n true' })
  expect(result.code).toBe(1)
  expect(result.stderr).toContain('a password is required')
  await host.stop()
  expect(await exists(host.name)).toBe(false)
  await host.stop()

  const failure = await startHost({ setup: 'hostname; exit 3' }).catch((error: unknown) => error)
  expect(String(failure)).toMatch(/set-up of host \S+ exited 3/)
  const [, name = ''] = /host (\S+) exited/.exec(String(failure)) ?? []
  expect(await exists(name)).toBe(false)
})

test('two hosts are two machines', async () => {
  const hosts = await Promise.all([startHost(), startHost({ hostname: 'db1', user: 'ops' })])
  const ids = await Promise.all(hosts.map((host) => host.exec('cat /etc/machine-id')))
  const [first, second] = ids.map(({ stdout }) => stdout)
  expect(first).toMatch(/^[0-9a-f]{32}\n$/)
  expect(second).toMatch(/^[0-9a-f]{32}\n$/)
  expect(first).not.toBe(second)
  const keys = new Set(hosts.flatMap(({ hostKeys }) => hostKeys))
  expect(keys.size).toBe(4)
  const login = hosts.map((host) =>
    sshLogin({ host, user: host.user, privateKeyPath: host.connectorKeyPath, command: 'hostname; sudo -n id -u' }),
  )
  expect((await Promise.all(login)).map(({ code }) => code)).toEqual([0, 0])
  expect((await login[1])?.stdout).toBe('db1\n0\n')
  await Promise.all(hosts.map((host) => host.stop()))
})

test('twenty hosts at once fit in 2 GiB', { timeout: 60_000 }, async ({ annotate }) => {
  const begun = performance.now()
  const key = await keygen()
  const hosts = await Promise.all(Array.from({ length: 20 }, () => startHost({ connectorKey: key })))
  const seconds = (performance.now() - begun) / 1000
  const usage = await mustRun('docker', [
    'stats',
    '--no-stream',
    '--format',
    '{{.MemUsage}}',
    ...hosts.map(({ name }) => name),
  ])
  const used = usage.trim().split('\n').map(mebibytes)
  expect(used).toHaveLength(20)
  expect(used.every((each) => each > 1)).toBe(true)
  const total = used.reduce((sum, each) => sum + each, 0)
  expect(total).toBeLessThan(2048)
  await Promise.all(hosts.map((host) => host.stop()))
  await annotate(`20 hosts in ${seconds.toFixed(1)} s, ${Math.round(total)} MiB`)
})

/** `7.5MiB / 23.5GiB` */
function mebibytes(usage: string): number {
  const [, amount, unit = ''] = /^([\d.]+)([KMG]i?B|B)/.exec(usage) ?? []
  const factor = { B: 2 ** -20, K: 2 ** -10, M: 1, G: 2 ** 10 }[unit.slice(0, 1)]
  return factor === undefined ? Number.NaN : Number(amount) * factor
}

describe('clean-up', () => {
  test('what a kill -9 leaves, the next run sweeps, and nothing of a living run', async () => {
    const [killed, living] = await Promise.all([startRun(), startRun()])
    const mine = await startHost()
    killed.child.kill('SIGKILL')
    await killed.ended
    expect(await exists(killed.host)).toBe(true)
    await sweepDeadRuns()
    expect(await exists(killed.host)).toBe(false)
    expect(await exists(living.host)).toBe(true)
    expect(await exists(mine.name)).toBe(true)
    living.child.kill('SIGTERM')
    await living.ended
    expect(await exists(living.host)).toBe(false)
    await mine.stop()
  })

  test('a pid that another process has now does not keep a dead run’s hosts', async () => {
    const recycled = await startLabelled({ 'apono.run': `${process.pid}-1` })
    const foreign = await startLabelled({ 'apono.run': `${process.pid}-1`, 'apono.machine': 'another machine' })
    await sweepDeadRuns()
    expect(await exists(recycled)).toBe(false)
    expect(await exists(foreign)).toBe(true)
    await removeContainers([foreign])
  })

  test.for(['SIGINT', 'SIGTERM'] as const)('%s leaves nothing', async (signal) => {
    const { child, host, ended } = await startRun()
    child.kill(signal)
    expect(await ended).toBe(signal)
    expect(await exists(host)).toBe(false)
  })
})

type ChildRun = { child: ChildProcess; host: string; ended: Promise<NodeJS.Signals | number | null> }

/** A process that is a run of its own, with one host. */
async function startRun(): Promise<ChildRun> {
  const { [RUN_VARIABLE]: _ours, ...env } = process.env
  const child = spawn(process.execPath, [join(import.meta.dirname, 'run-child.ts')], {
    env,
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended: ChildRun['ended'] = new Promise((resolve) => {
    child.on('close', (code, signal) => resolve(signal ?? code))
  })
  const host = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (line: Buffer) => resolve(line.toString().trim()))
    ended.then((end) => reject(new Error(`the run ended at once: ${end}`)))
  })
  return { child, host, ended }
}

/** A container that says it belongs to somebody else. */
async function startLabelled(labels: Record<string, string>): Promise<string> {
  const host = await startHost()
  const { Config }: { Config: { Image: string; Labels: Record<string, string> } } = JSON.parse(
    await mustRun('docker', ['inspect', '--format', '{"Config":{{json .Config}}}', host.name]),
  )
  await host.stop()
  const all = Object.entries({ ...Config.Labels, ...labels }).flatMap(([name, value]) => [
    '--label',
    `${name}=${value}`,
  ])
  return (await mustRun('docker', ['run', '--detach', ...all, Config.Image])).trim()
}
