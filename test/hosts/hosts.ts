// Real servers for tests, demo and benchmarks.
//
// A host is a machine in a container, by default Debian 12 (kinds.ts has the others): stock sshd under an
// init that reaps, PAM, sudo, cron, a user `apono` that may do everything by sudo, and the groups dbadmins,
// developers and deploy. It listens on a port of 127.0.0.1 and nowhere else, has host keys and a machine id
// of its own, and is not privileged. Nothing in it is faked, and what tests look at they read from the host
// itself (`exec` is root inside it), not through what they test.
//
// Hosts belong to a run (run.ts) and never outlive it (cleanup.ts). The image is built once (image.ts).
// openssh.ts is the person at the other end: the OpenSSH client.
//
//   const host = await startHost()
//   await sshLogin({ host, user: 'apono', privateKeyPath: host.connectorKeyPath, command: 'sudo -n id' })
//   await host.stop()

import { type GenericContainer, type StartedTestContainer, Wait } from 'testcontainers'
import {
  getent,
  groupsOf,
  type HostProcess,
  type PasswdEntry,
  passwd,
  processesOf,
  type ShadowEntry,
  shadow,
} from './accounts.ts'
import { removeContainers, whileStarting } from './cleanup.ts'
import { type CommandResult, mustRun, runCommand } from './command.ts'
import { hostImage, runOptions } from './image.ts'
import type { HostKind, RunOptions } from './kinds.ts'
import { loopbackContainer } from './loopback.ts'
import { type KeyPair, keygen } from './openssh.ts'

export type HostOptions = {
  /** Default: Debian 12 as the field has it. */
  kind?: HostKind
  /** An image to take instead of the kind's: one that was built on it. */
  image?: string
  /** Who the connector logs in as; default apono. One that does not exist is made, with sudo. */
  user?: string
  /** The connector's key, for hosts that share one; default: a new one. */
  connectorKey?: KeyPair
  /** The name the host calls itself; default: one of Docker's. */
  hostname?: string
  env?: Record<string, string>
  /** A shell script run as root once sshd listens, for example to break something. Must exit 0. */
  setup?: string
  /** What this host needs from the engine beyond what its kind needs. */
  run?: RunOptions
}

export type ExecOptions = { input?: string; timeoutMs?: number; user?: string }

export type TestHost = {
  /** The container's name. */
  name: string
  address: '127.0.0.1'
  port: number
  user: string
  /** The connector's private key, OpenSSH PEM; the same in a file. */
  connectorKey: string
  connectorKeyPath: string
  connectorPublicKey: string
  /** Public host keys, each `type base64`. */
  hostKeys: string[]
  /** Runs argv, or a script by sh, as root inside. */
  exec(command: string | readonly string[], options?: ExecOptions): Promise<CommandResult>
  getent(database: string, key: string): Promise<string[] | undefined>
  passwd(login: string): Promise<PasswdEntry | undefined>
  shadow(login: string): Promise<ShadowEntry | undefined>
  groupsOf(login: string): Promise<string[]>
  processesOf(uid: number): Promise<HostProcess[]>
  /** What sshd has logged so far. */
  log(): Promise<string>
  /** Removes the host. May be called twice. */
  stop(): Promise<void>
}

/** Starts a host and waits until its sshd listens. */
export async function startHost(options: HostOptions = {}): Promise<TestHost> {
  const image = options.image ?? (await hostImage(options.kind))
  const key = options.connectorKey ?? (await keygen())
  const run = await withCgroups(runOptions(options.kind, options.run))
  const container = await whileStarting(() => hostContainer(image, key, run, options).start())
  const host = await describe(container, key, options)
  try {
    await setUp(host, options.setup)
  } catch (error) {
    await host.stop()
    throw error
  }
  return host
}

async function withCgroups(run: RunOptions): Promise<RunOptions> {
  if (!run.cgroups) return run
  const version = await mustRun('docker', ['info', '--format', '{{.CgroupVersion}}'])
  return version.trim() === '2' ? run : { ...run, binds: [...(run.binds ?? []), '/sys/fs/cgroup'] }
}

function hostContainer(image: string, key: KeyPair, run: RunOptions, options: HostOptions): GenericContainer {
  const user = options.user ?? 'apono'
  const container = loopbackContainer(image, run)
    .withEnvironment({ AUTHORIZED_KEY: key.publicKey, CONNECTOR_USER: user, ...options.env })
    .withExposedPorts(22)
    .withWaitStrategy(Wait.forLogMessage(/Server listening on \S+ port 22/))
    .withStartupTimeout(30_000)
    .withTmpFs(run.tmpfs ?? {})
    .withBindMounts((run.binds ?? []).map((path) => ({ source: path, target: path, mode: 'ro' })))
    .withAddedCapabilities(...(run.capabilities ?? []))
    .withSecurityOpt(...(run.securityOptions ?? []))
  return options.hostname === undefined ? container : container.withHostname(options.hostname)
}

async function describe(container: StartedTestContainer, key: KeyPair, options: HostOptions): Promise<TestHost> {
  const id = container.getId()
  const exec: TestHost['exec'] = (command, { user = 'root', ...rest } = {}) => {
    const argv = typeof command === 'string' ? ['sh', '-c', command] : command
    return runCommand('docker', ['exec', '--interactive', '--user', user, id, ...argv], rest)
  }
  const logCommand = runOptions(options.kind).log
  const log = async () => {
    const { stdout, stderr } = await (logCommand ? exec(logCommand) : runCommand('docker', ['logs', id]))
    return stdout + stderr
  }
  return {
    name: container.getName().replace(/^\//, ''),
    address: '127.0.0.1',
    port: container.getMappedPort(22),
    user: options.user ?? 'apono',
    connectorKey: key.privateKey,
    connectorKeyPath: key.privateKeyPath,
    connectorPublicKey: key.publicKey,
    hostKeys: hostKeys(await mustRun('docker', ['logs', id])),
    exec,
    getent: (database, name) => getent(exec, database, name),
    passwd: (login) => passwd(exec, login),
    shadow: (login) => shadow(exec, login),
    groupsOf: (login) => groupsOf(exec, login),
    processesOf: (uid) => processesOf(exec, uid),
    log,
    stop: () => removeContainers([id]),
  }
}

/** start.sh prints them before sshd starts. */
function hostKeys(log: string): string[] {
  return log.split('\n').flatMap((line) => {
    const [type, key] = line.split(' ')
    return type && key && /^(ssh|ecdsa)-/.test(type) ? [`${type} ${key}`] : []
  })
}

async function setUp(host: TestHost, script: string | undefined): Promise<void> {
  if (script === undefined) return
  const { code, stdout, stderr } = await host.exec(script)
  if (code !== 0) throw new Error(`the set-up of host ${host.name} exited ${code}: ${stdout}${stderr}`)
}
