import { ensurePresent } from '../src/host/host-program.ts'
import type { HostLink } from '../src/host/link.ts'
import { makePerson, type Person, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { keygen } from '../test/hosts/openssh.ts'
import { startAnsible } from './ansible.ts'
import { pythonHostImage } from './images.ts'
import { type Figure, median, type Subject, timed } from './measure.ts'
import { newPool, routeTo } from './pool.ts'

/**
 * Two hundred new grants on twenty servers, cold: all handed to the pool at once, against Ansible with 20 forks and
 * pipelining and one loop of ten logins a server, on the same servers in turn. Each of ours has a certificate authority
 * of its own, a login, a group, a ledger record and its checks.
 */
const SERVERS = 20
const GRANTS = 10
/** Ansible takes about a minute for each. */
const ROUNDS = 2

const NAME = 'transport.fleet_vs_ansible'
const names = (prefix: string): string[] => Array.from({ length: GRANTS }, (_, n) => `${prefix}${n}`)

const create = (person: Person, login: string) => async (link: HostLink) => {
  const request = person.request({ id: `grt_${login}`, login, groups: ['dbadmins'] }, 'present')
  const reply = await ensurePresent(link, runContext(), request)
  if (!reply.createdLogin) throw new Error(`${login} was not created`)
}

const oursOn = async (hosts: readonly TestHost[], persons: readonly Person[], prefix: string): Promise<void> => {
  const pool = newPool()
  await Promise.all(
    hosts.flatMap((host, index) => {
      const [route, person] = [routeTo(host), persons[index] as Person]
      return names(prefix).map((login) => pool.use(route, { alone: true }, create(person, login)))
    }),
  )
  pool.close().catch(() => undefined)
}

export const transportFleet: Subject = async function* (only): AsyncGenerator<Figure> {
  if (!NAME.startsWith(only)) return
  const [image, connectorKey, ansible] = [await pythonHostImage(), await keygen(), await startAnsible()]
  const hosts = await Promise.all(Array.from({ length: SERVERS }, () => startHost({ image, connectorKey })))
  try {
    const persons = await Promise.all(hosts.map((host) => makePerson(host)))
    // Both find servers that they know: our drop-in and timer, their interpreter.
    await Promise.all(persons.map((person) => person.present({ id: 'grt_first', login: 'first' })))
    await ansible.target(hosts)
    await ansible.play('peer', { changed: true })
    const [ours, theirs]: [number[], number[]] = [[], []]
    for (let round = 0; round < ROUNDS; round++) {
      await ansible.disconnect()
      ours.push(await timed(() => oursOn(hosts, persons, `ours${round}x`)))
      theirs.push(await timed(() => ansible.playAll(names(`theirs${round}x`))))
    }
    const [value, peerValue] = [median(ours), median(theirs)]
    yield {
      name: NAME,
      value,
      unit: 'ms',
      peer: 'ansible, 20 forks, new connections',
      peerValue,
      ratio: value / peerValue,
    }
  } finally {
    ansible.stop()
    await Promise.all(hosts.map((host) => host.stop()))
  }
}
