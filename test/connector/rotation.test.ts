import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { hostProgram } from '../../src/host/host-program.ts'
import { InspectResult } from '../../src/protocol/results.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen } from '../hosts/openssh.ts'
import { type FakeControlPlane, startFakeControlPlane } from './fake-control-plane.ts'
import { job } from './jobs.ts'
import { type Running, startTestConnector } from './setup.ts'

// docs/rotation.md, step by step, on a real server: what the connector says is done as it says, with what it gives to paste.

let host: TestHost
let controlPlane: FakeControlPlane
let running: Running
let next: KeyPair

beforeAll(async () => {
  host = await startHost()
  next = await keygen()
  controlPlane = await startFakeControlPlane()
  running = await startTestConnector(controlPlane, { privateKey: host.connectorKey, deps: { hostProgram } })
}, 120_000)
afterAll(async () => {
  await running?.connector.stop()
  await controlPlane?.close()
  await host?.stop()
})

const base64 = (key: string): string => Buffer.from(key).toString('base64')
const store = (content: object): void =>
  writeFileSync(path.join(running.secretDirectory, 'ssh.json'), JSON.stringify(content), { mode: 0o600 })

const inspect = async () => {
  const secretPath = path.join(running.secretDirectory, 'ssh.json')
  const sent = { ...job({ kind: 'inspect', port: host.port, hostKeys: host.hostKeys, secretPath }), asked: true }
  const id = String(Reflect.get(sent, 'jobId'))
  controlPlane.enqueue(sent)
  const mine = () => controlPlane.reports().find((report) => 'jobId' in report && report.jobId === id)
  await controlPlane.until(() => mine() !== undefined, `an outcome of ${id}`)
  const report = mine()
  if (report?.outcome !== 'succeeded') throw new Error(JSON.stringify(report))
  const { loginKey, problems } = InspectResult.parse(report.result)
  return { loginKey, keys: problems.filter(({ code }) => code.startsWith('next_key_')) }
}

test('a key is changed without a moment in which the server is out of reach', async () => {
  expect(await inspect()).toEqual({ loginKey: 'only', keys: [] })

  store({ base64_private_key: base64(host.connectorKey), base64_private_key_next: 'not a key yet' })
  expect(await inspect()).toMatchObject({ loginKey: 'only', keys: [{ code: 'next_key_unusable' }] })

  store({ base64_private_key: base64(host.connectorKey), base64_private_key_next: base64(next.privateKey) })
  const { loginKey, keys } = await inspect()
  expect([loginKey, keys.map(({ code }) => code)]).toEqual(['current', ['next_key_not_taken']])

  const command = keys[0]?.hint.split('\n').find((line) => line.startsWith('printf ')) ?? ''
  expect(command).toContain(next.publicKey.split(' ')[1])
  expect((await host.exec(`bash -c ${JSON.stringify(command)}`)).code).toBe(0)
  expect(await inspect()).toEqual({ loginKey: 'next', keys: [] })

  store({ base64_private_key: base64(next.privateKey) })
  expect(await inspect()).toEqual({ loginKey: 'only', keys: [] })
  const old = host.connectorPublicKey.split(' ')[1] ?? ''
  await host.exec(['sed', '-i', `\\#${old}#d`, '/home/apono/.ssh/authorized_keys'])
  expect((await host.exec('cat ~apono/.ssh/authorized_keys')).stdout).not.toContain(old)
  expect(await inspect()).toEqual({ loginKey: 'only', keys: [] })
  expect(await host.log()).not.toContain('Failed publickey')
})
