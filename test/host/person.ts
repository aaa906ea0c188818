/**
 * Tests of the host program: real servers, the real OpenSSH client in the connector's place and in the person's.
 *
 * `person.ts` gives both: a link that runs the program through `ssh`, and somebody with a key pair who gets grants and
 * tries to log in. What a test asserts, it reads from the server itself.
 */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { mintCertificate } from '../../src/certificates/mint.ts'
import { type EnsureRequest, ensureAbsent, ensurePresent, type RunContext } from '../../src/host/host-program.ts'
import type { HostLink } from '../../src/host/link.ts'
import type { Grant } from '../../src/protocol/grant.ts'
import { Policy } from '../../src/protocol/integration.ts'
import type { TestHost } from '../hosts/hosts.ts'
import { type KeyPair, keygen, sshLogin, sshSession } from '../hosts/openssh.ts'

export const CONTROL_PLANE = 'cp_test'

/** The OpenSSH client as the connector's link to a server; with a control path, all runs share one connection. */
export const openSshLink = async (host: TestHost, controlPath?: string): Promise<HostLink> => {
  const { stdout } = await host.exec('sshd -V 2>&1 || true')
  return {
    user: host.user,
    host: host.address,
    port: host.port,
    serverSoftware: /OpenSSH_\S+/.exec(stdout)?.[0] ?? 'OpenSSH_9.2',
    hostKey: host.hostKeys[0] ?? '',
    exec: async (command, stdin, { timeoutMs }) => {
      const result = await sshLogin({
        host,
        user: host.user,
        privateKeyPath: host.connectorKeyPath,
        command,
        input: stdin,
        timeoutMs,
        ...(controlPath === undefined ? {} : { controlPath }),
      })
      // 255 is what the client says where the connection, not the command, ended.
      const exitCode = result.code === 255 ? null : result.code
      return { stdout: result.stdout, stderr: result.stderr, exitCode, exitSignal: null }
    },
  }
}

export const runContext = (now = Date.now()): RunContext => ({
  controlPlaneId: CONTROL_PLANE,
  now,
  timeoutMs: 30_000,
  random: randomBytes,
})

export interface GrantOptions {
  readonly id?: string
  readonly login?: string
  readonly person?: string
  readonly groups?: readonly string[]
  readonly generation?: number
  readonly epoch?: number
  readonly seconds?: number
  readonly hostId?: string | null
  readonly issue?: boolean
  readonly policy?: Partial<Policy>
}

let epochs = 0
/** Rises with every call, as the control plane's counter does. */
export const nextEpoch = (): number => ++epochs

const grantOf = (options: GrantOptions, state: 'present' | 'absent', publicKey: string): Grant => {
  const login = options.login ?? 'dana'
  const now = Date.now()
  return {
    id: options.id ?? 'grt_1',
    generation: options.generation ?? 1,
    state,
    login,
    person: options.person ?? `${login}@example.com`,
    groups: [...(options.groups ?? [])],
    notBefore: new Date(now - 1000).toISOString(),
    notAfter: new Date(now + (options.seconds ?? 300) * 1000).toISOString(),
    publicKey,
    issue: options.issue ?? true,
    hostId: options.hostId ?? null,
  }
}

/**
 * Somebody with a key pair who is given access to a server and tries to use it.
 * @param controlPath one connection for all runs of the program, where there are many
 */
export const makePerson = async (host: TestHost, controlPath?: string) => {
  const key: KeyPair = await keygen()
  const link = await openSshLink(host, controlPath)
  let certificates = 0

  const request = (options: GrantOptions, state: 'present' | 'absent'): EnsureRequest & { certificate: string } => {
    const grant = grantOf(options, state, key.publicKey.split(' ').slice(0, 2).join(' '))
    const minted =
      state === 'present' && grant.issue
        ? mintCertificate({
            grantId: grant.id,
            publicKey: grant.publicKey,
            notBefore: Date.parse(grant.notBefore),
            notAfter: Date.parse(grant.notAfter),
            now: Date.now(),
          })
        : undefined
    return {
      grant,
      policy: Policy.parse(options.policy ?? {}),
      epoch: options.epoch ?? nextEpoch(),
      authority: minted?.authority ?? null,
      certificate: minted?.certificate ?? '',
    }
  }

  const keepCertificate = async (certificate: string): Promise<string> => {
    const path = `${key.privateKeyPath}-cert-${++certificates}.pub`
    await writeFile(path, `${certificate}\n`)
    return path
  }

  const present = async (options: GrantOptions = {}) => {
    const wanted = request(options, 'present')
    const reply = await ensurePresent(link, runContext(), wanted)
    return { reply, request: wanted, certificatePath: await keepCertificate(wanted.certificate) }
  }

  const absent = (options: GrantOptions = {}) =>
    ensureAbsent(link, runContext(), request({ generation: 2, ...options }, 'absent'))

  const login = (certificatePath: string | undefined, command: string, as = 'dana') =>
    sshLogin({
      host,
      user: as,
      privateKeyPath: key.privateKeyPath,
      ...(certificatePath === undefined ? {} : { certificatePath }),
      command,
    })

  const stay = (certificatePath: string, as = 'dana') =>
    sshSession({ host, user: as, privateKeyPath: key.privateKeyPath, certificatePath })

  return { key, link, request, keep: keepCertificate, present, absent, login, stay }
}

export type Person = Awaited<ReturnType<typeof makePerson>>
