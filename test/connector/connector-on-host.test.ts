import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { hostProgram } from '../../src/host/host-program.ts'
import { InspectResult, PresentResult } from '../../src/protocol/results.ts'
import { runCommand } from '../hosts/command.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { keygen, sshLogin } from '../hosts/openssh.ts'
import { type FakeControlPlane, startFakeControlPlane } from './fake-control-plane.ts'
import { type JobOptions, job } from './jobs.ts'
import { type Running, startTestConnector } from './setup.ts'

// From a claimed job to what a person notices, on a real server: only the control plane is a fake.

let host: TestHost
let controlPlane: FakeControlPlane
let running: Running

beforeAll(async () => {
  host = await startHost()
  controlPlane = await startFakeControlPlane()
  running = await startTestConnector(controlPlane, {
    privateKey: host.connectorKey,
    env: { APONO_SSH_CONNECT_TIMEOUT_MS: '2000', APONO_SSH_LOGIN_TIMEOUT_MS: '3000' },
    deps: { hostProgram },
  })
}, 120_000)

afterAll(async () => {
  await running?.connector.stop()
  await controlPlane?.close()
  await host?.stop()
})

const containerAddress = async ({ name }: TestHost): Promise<string> => {
  const format = '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'
  return (await runCommand('docker', ['inspect', '-f', format, name])).stdout.trim()
}

const outcomeOf = async (options: JobOptions) => {
  const secretPath = path.join(running.secretDirectory, 'ssh.json')
  const sent = job({ port: host.port, secretPath, hostKeys: host.hostKeys, ...options })
  controlPlane.enqueue(sent)
  const mine = () => controlPlane.reports().find((report) => 'jobId' in report && report.jobId === sent['jobId'])
  await controlPlane.until(() => mine() !== undefined, `an outcome of ${String(sent['jobId'])}`)
  const report = mine()
  if (report?.outcome !== 'succeeded' && report?.outcome !== 'failed') throw new Error('not a final outcome')
  return report
}

const succeeded = async (options: JobOptions): Promise<unknown> => {
  const report = await outcomeOf(options)
  if (report.outcome !== 'succeeded') throw new Error(JSON.stringify(report))
  return report.result
}

const failed = async (options: JobOptions) => {
  const report = await outcomeOf(options)
  if (report.outcome !== 'failed') throw new Error(JSON.stringify(report))
  return report.error
}

describe('a connector and a real server', () => {
  test('inspect reports the server, with the host key it proved', async () => {
    const result = InspectResult.parse(await succeeded({ kind: 'inspect' }))
    expect(result.os.id).toBe('debian')
    expect(result.sudo.ok).toBe(true)
    expect(result.hostKeys).toEqual(expect.arrayContaining(host.hostKeys))
    expect(result.loginKey).toBe('only')
  })

  test('a grant lets the person in with the certificate, and its end keeps the same certificate out', async () => {
    const key = await keygen()
    const grant = { id: 'grt_walk', login: 'walker', publicKey: key.publicKey }
    const result = PresentResult.parse(await succeeded({ grant }))
    const certificatePath = `${key.privateKeyPath}-cert.pub`
    writeFileSync(certificatePath, `${result.certificate}\n`)
    const login = {
      host,
      user: 'walker',
      privateKeyPath: key.privateKeyPath,
      certificatePath,
      command: 'id -un; id -Gn',
    }

    const inside = await sshLogin(login)
    expect(inside.stdout).toMatch(/^walker\n.*dbadmins/)

    await succeeded({ grant: { ...grant, generation: 2, state: 'absent' } })
    const outside = await sshLogin(login)
    expect(outside.code).toBe(255)
    expect(outside.stderr).toContain('Permission denied')
  })

  test('a refused key names user, host and fingerprint, and how to repair .ssh', async () => {
    const error = await failed({ kind: 'inspect', user: 'stranger' })
    expect(error.code).toBe('ssh_auth_failed')
    expect(error.hint).toContain(`127.0.0.1:${host.port} refused key SHA256:`)
    expect(error.hint).toContain('chown -R stranger:stranger /home/stranger/.ssh')
  })

  test('another host key than the known one is refused, and named', async () => {
    const other = await keygen()
    const error = await failed({ kind: 'inspect', hostKeys: [other.publicKey] })
    expect(error.code).toBe('host_key_changed')
    expect(error.hostKeys?.length).toBe(1)
    expect(host.hostKeys).toContain(error.hostKeys?.[0])
  })

  test('a server behind a jump host that has a key of its own; each is known by what it showed', async () => {
    const own = await keygen()
    const jump = await startHost({ connectorKey: own, user: 'hop' })
    try {
      const secretPath = path.join(running.secretDirectory, 'hop.json')
      const secret = JSON.stringify({ base64_private_key: Buffer.from(own.privateKey).toString('base64') })
      writeFileSync(secretPath, secret, { mode: 0o600 })
      const address = await containerAddress(host)
      const hop = { host: '127.0.0.1', port: jump.port, user: 'hop', secretStore: { type: 'file', path: secretPath } }
      const way = { host: address, port: 22, jumps: [hop], hostKeys: [] }
      const result = InspectResult.parse(await succeeded({ kind: 'inspect', ...way }))
      expect(host.hostKeys).toContain(result.hostKeys[0])
      expect(jump.hostKeys).toContain(result.jumps?.[0]?.hostKeys[0])
      const impostor = { ...way, jumps: [{ ...hop, hostKeys: host.hostKeys }] }
      const error = await failed({ kind: 'inspect', ...impostor })
      expect(error.code).toBe('host_key_changed')
      expect(error.message).toContain(`jump host 127.0.0.1:${jump.port}`)
      expect(jump.hostKeys).toContain(error.hostKeys?.[0])
    } finally {
      await jump.stop()
    }
  })

  test('a port where nothing listens is unreachable', async () => {
    expect((await failed({ kind: 'inspect', port: 1 })).code).toBe('ssh_unreachable')
  })

  test('a group that does not exist changes nothing', async () => {
    const error = await failed({
      userGroups: ['nosuch'],
      grant: { id: 'grt_nogroup', login: 'lonely', groups: ['nosuch'] },
    })
    expect(error.code).toBe('group_missing')
    expect(await host.passwd('lonely')).toBeUndefined()
  })

  test('neither the private key nor the token is ever in the log', () => {
    const body = host.connectorKey.split('\n')[2] ?? 'no key'
    expect(running.logText()).toContain('job_finished')
    expect(running.logText()).not.toContain(body)
    expect(running.logText()).not.toContain('test-token')
  })
})
