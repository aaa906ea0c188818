import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { runLabels } from '../test/hosts/cleanup.ts'
import type { TestHost } from '../test/hosts/hosts.ts'
import { keygen } from '../test/hosts/openssh.ts'
import { ansibleImage } from './images.ts'

/**
 * The peer: Ansible of Debian, at its quickest. Pipelining on, connections kept open, host keys known, no facts
 * gathered, the interpreter named, no compression; one play of group, user and authorized_key (ansible-grant.yml).
 *
 * It runs in a container with this machine's network, so that it takes the same way to the servers as we do, and is
 * driven through one shell that stays open, so that its figures hold nothing of Docker's.
 */
export interface Ansible {
  /** Whom the next plays are for. Connections that are open to them stay so. */
  target(hosts: readonly TestHost[]): Promise<void>
  /** Gives the login what `ansible-grant.yml` says, and checks that each server changed `changes` times. */
  play(login: string, expected: { changed: boolean }): Promise<void>
  /** The same for many logins a server, in one loop (ansible-grants.yml). */
  playAll(logins: readonly string[]): Promise<void>
  /** Closes the connections that ControlPersist keeps. */
  disconnect(): Promise<void>
  version(): Promise<string>
  stop(): void
}

const SETTINGS = `[defaults]
inventory = hosts
forks = 20
gathering = explicit
interpreter_python = /usr/bin/python3
retry_files_enabled = False

[ssh_connection]
pipelining = True
ssh_args = -o ControlMaster=auto -o ControlPersist=10m
`

/** One shell; commands go in one at a time, and each ends with a line that no output has. */
class Shell {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #ended: Promise<never>
  #output = ''
  #arrived = (): void => undefined
  #count = 0

  constructor(argv: readonly string[]) {
    const [file = '', ...rest] = argv
    this.#child = spawn(file, rest, { stdio: 'pipe' })
    this.#ended = new Promise((_resolve, reject) => {
      this.#child.on('error', reject)
      this.#child.on('close', (code) => reject(new Error(`ansible’s shell ended with ${code}: ${this.#output}`)))
    })
    // Nobody may be waiting when it ends.
    this.#ended.catch(() => undefined)
    const collect = (chunk: Buffer): void => {
      this.#output += chunk.toString()
      this.#arrived()
    }
    this.#child.stdout.on('data', collect)
    this.#child.stderr.on('data', collect)
    this.#child.stdin.on('error', () => undefined)
  }

  /** What the command printed. Rejects when it does not exit 0. */
  async run(command: string): Promise<string> {
    const mark = `apono-end-${++this.#count}:`
    this.#output = ''
    this.#child.stdin.write(`{ ${command}\n} 2>&1 </dev/null; printf '${mark}%s\\n' "$?"\n`)
    const end = new RegExp(`${mark}(\\d+)\\n`)
    const done = new Promise<RegExpExecArray>((resolve) => {
      this.#arrived = () => {
        const found = end.exec(this.#output)
        if (found !== null) resolve(found)
      }
    })
    const found = await Promise.race([done, this.#ended])
    const printed = this.#output.slice(0, found.index)
    if (found[1] !== '0') throw new Error(`${command} exited ${found[1]}: ${printed}`)
    return printed
  }

  async write(path: string, text: string): Promise<void> {
    await this.run(`umask 077; mkdir -p "$(dirname ${path})"; base64 -d >${path} <<'END'\n${toBase64(text)}\nEND`)
  }

  stop(): void {
    this.#child.stdin.end()
  }
}

const toBase64 = (text: string): string => Buffer.from(text).toString('base64')

const inventory = (hosts: readonly TestHost[], publicKey: string): string =>
  [
    ...hosts.map((host, index) => `server${index} ansible_host=${host.address} ansible_port=${host.port}`),
    '[all:vars]',
    `ansible_user=${hosts[0]?.user}`,
    'ansible_ssh_private_key_file=/root/key',
    `key="${publicKey}"`,
    '',
  ].join('\n')

const knownHosts = (hosts: readonly TestHost[]): string =>
  hosts.flatMap(({ address, port, hostKeys }) => hostKeys.map((key) => `[${address}]:${port} ${key}\n`)).join('')

/** The play's recap has one line a server. A play that did something else than it should is no figure. */
const checkRecap = (output: string, servers: number, expected: { changed: boolean }): void => {
  const lines = [...output.matchAll(/: ok=3 +changed=(\d+) +unreachable=0 +failed=0 /g)]
  const asExpected = lines.filter(([, changed]) => (changed !== '0') === expected.changed)
  if (asExpected.length !== servers) throw new Error(`ansible did not do what is measured: ${output}`)
}

export const startAnsible = async (): Promise<Ansible> => {
  const image = await ansibleImage()
  const labels = Object.entries(runLabels()).flatMap(([name, value]) => ['--label', `${name}=${value}`])
  const shell = new Shell([
    'docker',
    'run',
    '--rm',
    '--interactive',
    '--init',
    '--network',
    'host',
    ...labels,
    image,
    'sh',
  ])
  const { publicKey } = await keygen()
  let servers = 0
  await shell.write('/etc/ansible/ansible.cfg', SETTINGS)
  await shell.write('/root/grant.yml', readFileSync(join(import.meta.dirname, 'ansible-grant.yml'), 'utf8'))
  await shell.write('/root/grants.yml', readFileSync(join(import.meta.dirname, 'ansible-grants.yml'), 'utf8'))
  await shell.run('cd /root')
  return {
    target: async (hosts) => {
      servers = hosts.length
      await shell.write('/root/hosts', inventory(hosts, publicKey))
      await shell.write('/root/.ssh/known_hosts', knownHosts(hosts))
      await shell.write('/root/key', hosts[0]?.connectorKey ?? '')
    },
    play: async (login, expected) => {
      checkRecap(await shell.run(`ansible-playbook -i hosts -e login=${login} grant.yml`), servers, expected)
    },
    playAll: async (logins) => {
      const extra = JSON.stringify({ logins })
      checkRecap(await shell.run(`ansible-playbook -i hosts -e '${extra}' grants.yml`), servers, { changed: true })
    },
    disconnect: async () => {
      await shell.run('for at in .ansible/cp/*; do [ ! -S "$at" ] || ssh -o ControlPath="$at" -O exit any; done')
    },
    version: async () => /ansible.*?([0-9][0-9.]+)/.exec(await shell.run('ansible --version'))?.[1] ?? 'unknown',
    stop: () => shell.stop(),
  }
}
