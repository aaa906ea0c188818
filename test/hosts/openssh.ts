import { type ChildProcess, spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type CommandResult, mustRun, runCommand } from './command.ts'
import { scratchDirectory } from './scratch.ts'

// The real OpenSSH client, as a person would use it, cut off from this machine's own settings, agent
// and known hosts. It believes only the host keys that it is given.

export type KeyPair = {
  privateKeyPath: string
  publicKeyPath: string
  /** OpenSSH PEM. */
  privateKey: string
  /** One line, without a comment. */
  publicKey: string
}

export type KeyType = 'ed25519' | 'ecdsa' | 'rsa'

let keys = 0

/** Makes a key pair without a passphrase, as ssh-keygen does. */
export async function keygen(directory: string = scratchDirectory(), type: KeyType = 'ed25519'): Promise<KeyPair> {
  const privateKeyPath = join(directory, `id_${type}_${++keys}`)
  await mustRun('ssh-keygen', ['-q', '-t', type, '-N', '', '-C', '', '-f', privateKeyPath])
  const publicKeyPath = `${privateKeyPath}.pub`
  return {
    privateKeyPath,
    publicKeyPath,
    privateKey: await readFile(privateKeyPath, 'utf8'),
    publicKey: (await readFile(publicKeyPath, 'utf8')).trim(),
  }
}

/** Where to connect, and which host keys to believe. A TestHost is one. */
export type SshTarget = { address: string; port: number; hostKeys: readonly string[] }

export type SshOptions = {
  host: SshTarget
  user: string
  privateKeyPath: string
  certificatePath?: string
  /** The command line for the remote shell; none for a login shell. */
  command?: string
  input?: string
  /** Milliseconds for the whole; default 15 s. */
  timeoutMs?: number
  /** Share one connection through this socket, and keep it for a minute. */
  controlPath?: string
  /** Further `-o` settings; the first one wins over ours. */
  settings?: readonly string[]
}

/** Logs in, runs the command to its end, and gives what the client gave. */
export function sshLogin(options: SshOptions): Promise<CommandResult> {
  const { command, input } = options
  return runCommand('ssh', [...sshArguments(options), ...(command === undefined ? [] : [command])], {
    timeoutMs: options.timeoutMs ?? 15_000,
    ...(input === undefined ? {} : { input }),
  })
}

/** The client's arguments up to and including the destination. */
export function sshArguments(options: SshOptions): string[] {
  const { host, user, privateKeyPath, certificatePath, controlPath } = options
  const connectSeconds = Math.max(1, Math.ceil((options.timeoutMs ?? 15_000) / 1000))
  const settings = [
    ...(options.settings ?? []),
    'BatchMode=yes',
    'IdentitiesOnly=yes',
    'IdentityAgent=none',
    'PreferredAuthentications=publickey',
    // First of all that it knows: the default's post-quantum half costs 0.1 s a connection, and there are thousands.
    'KexAlgorithms=^curve25519-sha256',
    'StrictHostKeyChecking=yes',
    'GlobalKnownHostsFile=/dev/null',
    `UserKnownHostsFile=${knownHosts(host)}`,
    `ConnectTimeout=${connectSeconds}`,
    ...(certificatePath === undefined ? [] : [`CertificateFile=${certificatePath}`]),
    ...(controlPath === undefined ? [] : ['ControlMaster=auto', `ControlPath=${controlPath}`, 'ControlPersist=60']),
  ].flatMap((setting) => ['-o', setting])
  return ['-F', '/dev/null', ...settings, '-i', privateKeyPath, '-p', String(host.port), '-l', user, host.address]
}

function knownHosts({ address, port, hostKeys }: SshTarget): string {
  const path = join(scratchDirectory(), 'known_hosts')
  writeFileSync(path, hostKeys.map((key) => `[${address}]:${port} ${key}\n`).join(''))
  return path
}

export type SshSession = {
  child: ChildProcess
  /** The remote shell answers. Rejects when the client ends before that. */
  ready: Promise<void>
  /** The client has ended; with its exit code, 255 when the connection was lost. */
  closed: Promise<number | null>
  output(): string
  write(text: string): void
  kill(): void
}

/** A person who logs in with a terminal and stays. `options.command` runs in that terminal first. */
export function sshSession(options: SshOptions): SshSession {
  const child = spawn('ssh', ['-tt', ...sshArguments(options)], { stdio: 'pipe' })
  let output = ''
  const closed = new Promise<number | null>((resolve) => child.on('close', resolve))
  const ready = new Promise<void>((resolve, reject) => {
    const collect = (chunk: Buffer) => {
      output += chunk.toString()
      // The terminal echoes the sum; only a shell that runs gives its result.
      if (output.includes('session-ready-42')) resolve()
    }
    child.stdout.on('data', collect)
    child.stderr.on('data', collect)
    child.on('error', reject)
    child.on('close', () => reject(new Error(`ssh ended before the session was ready: ${output.trim()}`)))
  })
  // Who only waits for the end need not handle a start that failed.
  ready.catch(() => undefined)
  child.stdin.on('error', () => undefined)
  if (options.command !== undefined) child.stdin.write(`${options.command}\n`)
  child.stdin.write('echo session-ready-$((6*7))\n')
  return {
    child,
    ready,
    closed,
    output: () => output,
    write: (text) => child.stdin.write(text),
    kill: () => child.kill('SIGKILL'),
  }
}
