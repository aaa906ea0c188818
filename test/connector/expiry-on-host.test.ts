import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { hostProgram } from '../../src/host/host-program.ts'
import { PresentResult } from '../../src/protocol/results.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen, sshLogin, sshSession } from '../hosts/openssh.ts'
import { scratchDirectory } from '../hosts/scratch.ts'
import { type FakeControlPlane, startFakeControlPlane } from './fake-control-plane.ts'
import { job } from './jobs.ts'
import { type Running, secretDirectory, startTestConnector } from './setup.ts'

// The connector's part in ending access, with the other two switched off: the control plane is away when a grant ends, and the
// server's own timer is taken from it.

let host: TestHost
let controlPlane: FakeControlPlane
let running: Running
let environment: Record<string, string>

beforeAll(async () => {
  host = await startHost()
}, 120_000)
afterAll(() => host?.stop())

beforeEach(async () => {
  controlPlane = await startFakeControlPlane()
  environment = { APONO_STATE_DIR: scratchDirectory(), APONO_SECRET_DIR: secretDirectory(host.connectorKey) }
  running = await start()
})
afterEach(async () => {
  await running?.connector.stop()
  await controlPlane?.close()
})

const start = (): Promise<Running> => startTestConnector(controlPlane, { env: environment, deps: { hostProgram } })

const SECONDS = 6

const jobFor = (login: string, overrides: object = {}) => {
  const notAfter = new Date(Date.now() + SECONDS * 1000).toISOString()
  const secretPath = path.join(environment['APONO_SECRET_DIR'] ?? '', 'ssh.json')
  const grant = { id: `grt_${login}`, login, notAfter, ...overrides }
  return job({ port: host.port, hostKeys: host.hostKeys, secretPath, grant })
}

/** Somebody with access and a session on the server, whose own timer is gone. */
const letIn = async (login: string) => {
  const key = await keygen()
  const sent = jobFor(login, { publicKey: key.publicKey.split(' ').slice(0, 2).join(' ') })
  controlPlane.enqueue(sent)
  const mine = () => controlPlane.reports().find((one) => 'jobId' in one && one.jobId === sent['jobId'])
  await controlPlane.until(() => mine() !== undefined, 'access')
  const report = mine()
  if (report?.outcome !== 'succeeded') throw new Error(JSON.stringify(report))
  const { uid, certificate } = PresentResult.parse(report.result)
  const certificatePath = `${key.privateKeyPath}-cert.pub`
  writeFileSync(certificatePath, `${certificate}\n`)
  await host.exec('rm -f /etc/cron.d/apono-connector /var/lib/apono-connector/program /var/lib/apono-connector/timer')
  const as = { host, user: login, privateKeyPath: key.privateKeyPath, certificatePath }
  const session = sshSession(as)
  await session.ready
  return { as, session, uid, grantId: `grt_${login}`, sent }
}

const isGone = async ({ as, session, uid }: Awaited<ReturnType<typeof letIn>>): Promise<void> => {
  expect(await session.closed).toBe(255)
  await expect.poll(() => host.processesOf(uid), { timeout: 10_000 }).toEqual([])
  await expect.poll(async () => (await host.shadow(as.user))?.expires, { timeout: 10_000 }).toBe('1')
  expect(await host.groupsOf(as.user)).not.toContain('dbadmins')
  expect((await sshLogin({ ...as, command: 'true' })).code).toBe(255)
}

const expiredReports = (grantId: string) =>
  controlPlane.reports().filter((one) => one.outcome === 'expired' && one.grantId === grantId)

describe('a grant that ends while the control plane is away', () => {
  test('is ended by the connector, which tells it when the control plane is back', async () => {
    const person = await letIn('away')
    await controlPlane.pause()
    await isGone(person)
    await controlPlane.resume()
    await controlPlane.until(() => expiredReports(person.grantId).length > 0, 'the end, told', 40_000)
    expect(expiredReports(person.grantId)).toMatchObject([{ generation: 1, result: { processesLeft: 0 } }])
  }, 90_000)

  test('and while the connector is down, is ended by the next one before anything else', async () => {
    const person = await letIn('down')
    await running.connector.stop()
    await controlPlane.pause()
    await host.exec(['sleep', String(SECONDS)])
    expect((await host.processesOf(person.uid)).length).toBeGreaterThan(0)
    running = await start()
    await isGone(person)
  }, 90_000)
})

test('a grant that only the control plane’s list names is ended, too, after whoever gave it had the time', async () => {
  const person = await letIn('listed')
  await running.connector.stop()
  environment = { ...environment, APONO_STATE_DIR: scratchDirectory() }
  controlPlane.grants.push(...[1, 2].map((n) => ({ ...job({ host: '192.0.2.1', grant: { id: `grt_far_${n}` } }) })), {
    ...person.sent,
  })
  const before = controlPlane.resyncs()
  running = await start()
  await controlPlane.until(() => controlPlane.resyncs() > before, 'a resync')
  await controlPlane.pause()
  await isGone(person)
}, 120_000)
