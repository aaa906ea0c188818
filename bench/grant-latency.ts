import path from 'node:path'
import { ensurePresent } from '../src/host/host-program.ts'
import type { HostLink } from '../src/host/link.ts'
import { makePerson, openSshLink, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { scratchDirectory } from '../test/hosts/scratch.ts'
import { connect, overNewConnection } from './connect.ts'
import { asked, compare, type Pair, type Subject } from './measure.ts'

/**
 * From a job in hand to the grant on the server: certificate, connection, `sudo sh -s`, the whole host program. The
 * peer runs the same program with the same kind of grant by `ssh HOST env LC_ALL=C sudo -n -- /bin/sh -s`, its default
 * configuration; warm, by a ControlMaster. Every run is a new hand-out (a higher epoch and a new certificate), so each
 * does a full `ensure` on a login that exists; `warm.noop` sends the same hand-out again.
 */
const COLD_ROUNDS = 15
const WARM_ROUNDS = 30

const benchServer = async function* (host: TestHost, name: string, only: string) {
  const person = await makePerson(host)
  await person.present()
  const grant = (link: HostLink) => ensurePresent(link, runContext(), person.request({}, 'present'))
  const session = await connect(host)
  const master = await openSshLink(host, path.join(scratchDirectory(), 'master'))
  // Made when it is first needed: any later hand-out would supersede it.
  let again: ReturnType<typeof person.request> | undefined
  const noop = (link: HostLink) => {
    again ??= person.request({}, 'present')
    return ensurePresent(link, runContext(), again)
  }
  const pairs: readonly Pair[] = [
    {
      name: `grant.cold.${name}`,
      peer: 'ssh sudo sh -s, same program',
      ours: () => overNewConnection(host, grant),
      theirs: () => grant(person.link),
      rounds: COLD_ROUNDS,
    },
    {
      name: `grant.warm.${name}`,
      peer: 'ControlMaster, same program',
      ours: () => grant(session),
      theirs: () => grant(master),
      rounds: WARM_ROUNDS,
    },
    {
      name: `grant.warm.noop.${name}`,
      peer: 'ControlMaster, same program',
      ours: () => noop(session),
      theirs: () => noop(master),
      rounds: WARM_ROUNDS,
    },
  ]
  for (const pair of pairs) if (pair.name.startsWith(only)) yield await compare(pair)
  await session.close()
}

export const grantLatency: Subject = async function* (only) {
  if (!asked(only, 'grant.')) return
  for (const name of ['web-1', 'web-2']) {
    const host = await startHost({ hostname: name })
    try {
      yield* benchServer(host, name, only)
    } finally {
      await host.stop()
    }
  }
}
