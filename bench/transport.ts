import path from 'node:path'
import ssh2, { type Client } from 'ssh2'
import { ensurePresent } from '../src/host/host-program.ts'
import type { HostLink } from '../src/host/link.ts'
import { programInput } from '../src/host/parameters.ts'
import { makePerson, openSshLink, type Person, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { sshLogin } from '../test/hosts/openssh.ts'
import { scratchDirectory } from '../test/hosts/scratch.ts'
import { asked, compare, type Pair, type Subject } from './measure.ts'
import { newPool, routeTo } from './pool.ts'

/**
 * From a job in hand to its result, against OpenSSH's own client and against bare ssh2, with the same program on the
 * same server in turn.
 *
 * - `cold_vs_ssh`: a new connection and one `ensure`, a new hand-out each time, against `ssh HOST env LC_ALL=C sudo -n --
 *   /bin/sh -s` in its default configuration; `.curve25519`: the peer without its post-quantum key exchange.
 * - `warm_vs_controlmaster`: the pool's connection against a ControlMaster's, the same hand-out again, which the ledger
 *   answers; `.again`: a new hand-out, for which every check runs.
 * - `overhead_vs_ssh2`: the pool against nothing but ssh2's `exec`, both with the program's text and the same job.
 */
const COLD_ROUNDS = 15
const WARM_ROUNDS = 40
const SUDO = 'env LC_ALL=C sudo -n -- /bin/sh -s'

/** The client with its own defaults: the tests' shortcut for the key exchange adds nothing here. */
const freshSsh = (host: TestHost, link: HostLink, settings: readonly string[]): HostLink => ({
  ...link,
  exec: async (command, input, { timeoutMs }) => {
    const { user, connectorKeyPath: privateKeyPath } = host
    const { code, stdout, stderr } = await sshLogin({ host, user, privateKeyPath, command, input, timeoutMs, settings })
    return { stdout, stderr, exitCode: code === 255 ? null : code, exitSignal: null }
  },
})

const bareClient = (host: TestHost): Promise<Client> =>
  new Promise((resolve, reject) => {
    const client = new ssh2.Client()
    client.on('connect', () => client.setNoDelay(true))
    client.on('ready', () => resolve(client))
    client.on('error', reject)
    const { address, port, user: username, connectorKey: privateKey } = host
    client.connect({ host: address, port, username, privateKey, hostVerifier: () => true })
  })

const bareExec = (client: Client, input: string): Promise<string> =>
  new Promise((resolve, reject) => {
    client.exec(SUDO, (error, channel) => {
      if (error) return reject(error)
      let output = ''
      channel.on('data', (chunk: Buffer) => {
        output += chunk.toString()
      })
      channel.stderr.resume()
      channel.on('close', () => resolve(output))
      channel.end(input)
    })
  })

/** The same hand-out of a grant that stands, for whatever link; each has its own, so that none supersedes the other's. */
const sameAgain = async (person: Person, link: HostLink, name: string) => {
  const wanted = person.request({ id: `grt_${name}`, login: name, groups: ['dbadmins'] }, 'present')
  await ensurePresent(link, runContext(), wanted)
  return async (through: HostLink): Promise<void> => {
    const { changed } = await ensurePresent(through, runContext(), wanted)
    if (changed) throw new Error('an ensure that should change nothing did')
  }
}

const pairsOn = async (host: TestHost): Promise<{ pairs: readonly Pair[]; close: () => Promise<void> }> => {
  const [person, route, pool] = [await makePerson(host), routeTo(host), newPool()]
  await person.present()
  const master = await openSshLink(host, path.join(scratchDirectory(), 'master'))
  const grant = (link: HostLink) => ensurePresent(link, runContext(), person.request({}, 'present'))
  const noop = await sameAgain(person, person.link, 'noop')
  const overPool = (work: (link: HostLink) => Promise<unknown>) => () => pool.use(route, { alone: true }, work)
  const cold = async () => {
    const fresh = newPool()
    await fresh.use(route, { alone: true }, grant)
    fresh.close().catch(() => undefined)
  }
  const client = await bareClient(host)
  const input = programInput('f'.repeat(32), {
    op: 'inspect',
    cp: 'cp_bench',
    user: host.user,
    now: String(Math.floor(Date.now() / 1000)),
    sshd: '902',
  })
  const lookFor = (output: string): void => {
    if (!/^apono1 f{32} end ok$/m.test(output)) throw new Error(`not the program’s output: ${output.slice(0, 300)}`)
  }
  const defaults = freshSsh(host, person.link, ['KexAlgorithms=+curve25519-sha256'])
  const shortcut = freshSsh(host, person.link, ['KexAlgorithms=curve25519-sha256'])
  return {
    pairs: [
      {
        name: 'transport.cold_vs_ssh',
        peer: 'ssh sudo sh -s, same program',
        ours: cold,
        theirs: () => grant(defaults),
        rounds: COLD_ROUNDS,
      },
      {
        name: 'transport.cold_vs_ssh.curve25519',
        peer: 'the same, curve25519 only',
        ours: cold,
        theirs: () => grant(shortcut),
        rounds: COLD_ROUNDS,
      },
      {
        name: 'transport.warm_vs_controlmaster',
        peer: 'ControlMaster, same program',
        ours: overPool(noop),
        theirs: () => noop(master),
        rounds: WARM_ROUNDS,
      },
      {
        name: 'transport.warm_vs_controlmaster.again',
        peer: 'ControlMaster, same program',
        ours: overPool(grant),
        theirs: () => grant(master),
        rounds: WARM_ROUNDS,
      },
      {
        name: 'transport.overhead_vs_ssh2',
        peer: 'ssh2 exec, same program',
        ours: overPool(async (link) => lookFor((await link.exec(SUDO, input, { timeoutMs: 10_000 })).stdout)),
        theirs: async () => lookFor(await bareExec(client, input)),
        rounds: WARM_ROUNDS,
      },
    ],
    close: async () => {
      client.end()
      await pool.close()
    },
  }
}

export const transport: Subject = async function* (only) {
  const names = ['transport.cold_vs_ssh', 'transport.warm_vs_controlmaster', 'transport.overhead_vs_ssh2']
  if (!asked(only, ...names)) return
  const host = await startHost()
  try {
    const { pairs, close } = await pairsOn(host)
    for (const pair of pairs) if (pair.name.startsWith(only)) yield await compare(pair)
    await close()
  } finally {
    await host.stop()
  }
}
