import { type EnsureRequest, ensurePresent, type PresentReply } from '../src/host/host-program.ts'
import type { HostLink } from '../src/host/link.ts'
import type { SshSession } from '../src/ssh/session.ts'
import { makePerson, type Person, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { keygen } from '../test/hosts/openssh.ts'
import { type Ansible, startAnsible } from './ansible.ts'
import { connect, overNewConnection } from './connect.ts'
import { pythonHostImage } from './images.ts'
import { asked, compare, type Figure, type Pair, type Subject } from './measure.ts'

/**
 * `ensure` against Ansible's user, group and authorized_key, on the same servers in turn.
 *
 * - `first`: the very first one on a new server; `create`: a new login on a server that has everything else. Both over
 *   a new connection, ours and theirs.
 * - `warm`: the same hand-out once more, which the ledger answers with its stored result. `again`: a new hand-out of the
 *   same grant, for which every check runs, the state is compared, and the ledger is written. Both over connections that
 *   are open, as Ansible's are.
 * - `noop`: `warm` against `sudo -n true` over the same connection, the least that any root work costs;
 *   `noop.again`: the same for `again`.
 */
const FIRST_ROUNDS = 5
const CREATE_ROUNDS = 8
const WARM_ROUNDS = 8
const FLEET_ROUNDS = 3
const NOOP_ROUNDS = 40
const FLEET = 20
const PEER_COLD = 'ansible, new connection'
const PEER_WARM = 'ansible, connection kept open'
const GROUPS = ['dbadmins']

/** What is common to all: one image, one key for all servers, the peer. */
interface Bench {
  readonly ansible: Ansible
  readonly start: () => Promise<TestHost>
}

/** One server with a connection that stays open, and two grants on it that are given already. */
interface Prepared {
  readonly host: TestHost
  readonly session: SshSession
  readonly warm: () => Promise<unknown>
  readonly again: () => Promise<unknown>
}

const unchanged = async (reply: Promise<PresentReply>): Promise<void> => {
  if ((await reply).changed) throw new Error('an ensure that should change nothing did')
}

const create = async (link: HostLink, person: Person, name: string): Promise<EnsureRequest> => {
  const request = person.request({ id: `grt_${name}`, login: name, groups: GROUPS }, 'present')
  const reply = await ensurePresent(link, runContext(), request)
  if (!reply.createdLogin) throw new Error(`${name} was not created`)
  return request
}

const prepared = async (host: TestHost): Promise<Prepared> => {
  const [session, person] = [await connect(host), await makePerson(host)]
  const given = await create(session, person, 'warm')
  await create(session, person, 'again')
  const handOut = () =>
    person.request({ id: 'grt_again', login: 'again', groups: GROUPS, issue: false, seconds: 290 }, 'present')
  // With the end of this hand-out, from which the next ones differ in nothing.
  const { grant } = handOut()
  const again = () => ensurePresent(session, runContext(), { ...handOut(), grant })
  await again()
  return {
    host,
    session,
    warm: () => unchanged(ensurePresent(session, runContext(), given)),
    again: () => unchanged(again()),
  }
}

const firstPair = ({ ansible, start }: Bench): Pair & { readonly stop: () => Promise<unknown> } => {
  let servers: TestHost[] = []
  let persons: Person[] = []
  const stop = () => Promise.all(servers.map((host) => host.stop()))
  return {
    name: 'host.ensure.first.1',
    peer: PEER_COLD,
    rounds: FIRST_ROUNDS,
    prepare: async () => {
      await ansible.disconnect()
      await stop()
      servers = [await start(), await start()]
      persons = await Promise.all(servers.map((host) => makePerson(host)))
      await ansible.target(servers.slice(1))
    },
    ours: async () => {
      const [host, person] = [servers[0], persons[0]]
      if (host === undefined || person === undefined) throw new Error('no server was started')
      await overNewConnection(host, (link) => create(link, person, 'first'))
    },
    theirs: () => ansible.play('first', { changed: true }),
    stop,
  }
}

const first = async function* (bench: Bench): AsyncGenerator<Figure> {
  const { stop, ...pair } = firstPair(bench)
  try {
    yield await compare(pair)
  } finally {
    await stop()
  }
}

const createPair = ({ ansible }: Bench, { host }: Prepared, person: Person): Pair => {
  let round = 0
  return {
    name: 'host.ensure.create.1',
    peer: PEER_COLD,
    rounds: CREATE_ROUNDS,
    prepare: async () => {
      round++
      await ansible.disconnect()
    },
    ours: () => overNewConnection(host, (link) => create(link, person, `ours${round}`)),
    theirs: () => ansible.play(`theirs${round}`, { changed: true }),
  }
}

const warmPairs = ({ ansible }: Bench, fleet: readonly Prepared[], rounds: number): Pair[] => {
  const theirs = () => ansible.play('peer', { changed: false })
  const all = (run: (server: Prepared) => Promise<unknown>) => () => Promise.all(fleet.map(run))
  return [
    { name: `host.ensure.warm.${fleet.length}`, peer: PEER_WARM, rounds, theirs, ours: all(({ warm }) => warm()) },
    { name: `host.ensure.again.${fleet.length}`, peer: PEER_WARM, rounds, theirs, ours: all(({ again }) => again()) },
  ]
}

const noopPairs = ({ session, warm, again }: Prepared): Pair[] => {
  const theirs = async () => {
    const outcome = await session.exec('sudo -n true', '', { timeoutMs: 10_000 })
    if (outcome.exitCode !== 0) throw new Error(`sudo -n true: ${JSON.stringify(outcome)}`)
  }
  const common = { peer: 'sudo -n true, same connection', rounds: NOOP_ROUNDS, theirs }
  return [
    { name: 'host.ensure.noop', ours: warm, ...common },
    { name: 'host.ensure.noop.again', ours: again, ...common },
  ]
}

const wanted = async function* (pairs: readonly Pair[], only: string): AsyncGenerator<Figure> {
  for (const pair of pairs) if (pair.name.startsWith(only)) yield await compare(pair)
}

/** The figures of `count` servers that are prepared; the peer has made its login there once. */
const onFleet = async function* (
  bench: Bench,
  count: number,
  figures: (fleet: readonly Prepared[]) => AsyncGenerator<Figure>,
): AsyncGenerator<Figure> {
  const hosts = await Promise.all(Array.from({ length: count }, bench.start))
  try {
    const fleet = await Promise.all(hosts.map(prepared))
    await bench.ansible.disconnect()
    await bench.ansible.target(hosts)
    await bench.ansible.play('peer', { changed: true })
    yield* figures(fleet)
    await Promise.all(fleet.map(({ session }) => session.close()))
  } finally {
    await Promise.all(hosts.map((host) => host.stop()))
  }
}

const one = (bench: Bench, only: string) =>
  async function* ([server]: readonly Prepared[]): AsyncGenerator<Figure> {
    if (server === undefined) return
    const person = await makePerson(server.host)
    const pairs = [createPair(bench, server, person), ...warmPairs(bench, [server], WARM_ROUNDS), ...noopPairs(server)]
    yield* wanted(pairs, only)
  }

const startBench = async (): Promise<Bench> => {
  const [image, connectorKey, ansible] = [await pythonHostImage(), await keygen(), await startAnsible()]
  process.stderr.write(`bench: the peer is ansible ${await ansible.version()}\n`)
  return { ansible, start: () => startHost({ image, connectorKey }) }
}

export const hostEnsure: Subject = async function* (only) {
  if (!asked(only, 'host.ensure.')) return
  const bench = await startBench()
  try {
    if (asked(only, 'host.ensure.first.')) yield* first(bench)
    if (asked(only, 'host.ensure.create.', 'host.ensure.warm.1', 'host.ensure.again.1', 'host.ensure.noop')) {
      yield* onFleet(bench, 1, one(bench, only))
    }
    if (asked(only, `host.ensure.warm.${FLEET}`, `host.ensure.again.${FLEET}`)) {
      yield* onFleet(bench, FLEET, (fleet) => wanted(warmPairs(bench, fleet, FLEET_ROUNDS), only))
    }
  } finally {
    bench.ansible.stop()
  }
}
