import { ensureAbsent } from '../src/host/host-program.ts'
import { programInput } from '../src/host/parameters.ts'
import type { SshSession } from '../src/ssh/session.ts'
import { makePerson, type Person, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { connect } from './connect.ts'
import { againstTarget, asked, median, type Subject, timed } from './measure.ts'

/**
 * From the job that ends a grant to the proof, over a connection that is open, while the person has a session and a
 * hundred processes, ten of which do nothing but start others. The search for residue is in it. That all have ended is
 * read from the server's /proc afterwards.
 */
const ROUNDS = 7
const TARGET_MS = 1000
const PROCESSES = 100
const FORKERS = 10

/** In the person's session. Each forker's children come and go; the sleepers stay. */
const CROWD = `for i in $(seq ${PROCESSES - FORKERS}); do sleep 1000 & done
for i in $(seq ${FORKERS}); do sh -c 'while :; do /bin/true; done' & done`

const waitForCrowd = async (host: TestHost, uid: number): Promise<void> => {
  const deadline = performance.now() + 20_000
  while ((await host.processesOf(uid)).length < PROCESSES) {
    if (performance.now() > deadline) throw new Error('the crowd did not come')
  }
}

const revokeOnce = async (host: TestHost, link: SshSession, person: Person, round: number): Promise<number> => {
  const grant = { id: `grt_${round}`, login: `crowd${round}`, groups: ['dbadmins'] }
  const { reply, certificatePath } = await person.present(grant)
  const session = person.stay(certificatePath, grant.login)
  await session.ready
  session.write(`${CROWD}\n`)
  await waitForCrowd(host, reply.uid)
  const request = person.request({ ...grant, generation: 2 }, 'absent')
  const ms = await timed(async () => {
    const result = await ensureAbsent(link, runContext(), request)
    if (result.processesLeft !== 0 || result.sessionsEnded !== 1) {
      throw new Error(`the end was not what is measured: ${JSON.stringify(result)}`)
    }
  })
  const left = await host.processesOf(reply.uid)
  if (left.length > 0) throw new Error(`after the end there were ${left.length} processes`)
  await session.closed
  return ms
}

export const hostRevoke: Subject = async function* (only) {
  const name = `host.revoke.${PROCESSES}procs`
  if (!name.startsWith(only)) return
  // What root may on a server, and by Docker's default not in a container: go before the crowd.
  const host = await startHost({ run: { capabilities: ['SYS_NICE'] } })
  try {
    const [link, person] = [await connect(host), await makePerson(host)]
    const values: number[] = []
    for (let round = 0; round <= ROUNDS; round++) values.push(await revokeOnce(host, link, person, round))
    yield againstTarget(name, median(values.slice(1)), 'ms', TARGET_MS)
    await link.close()
  } finally {
    await host.stop()
  }
}

const TARGET_BYTES = 49_152
const NONCE = '0'.repeat(32)
const OPERATIONS = ['present', 'absent', 'install', 'cleanup', 'inspect', 'uninstall'] as const
const TOOLS = ['shadow', 'busybox'] as const

/** Of the program as the longest job sends it, to whatever server; the job's own lines come to that. */
export const hostProgramBytes: Subject = async function* (only) {
  if (!asked(only, 'host.program.bytes')) return
  const sizes = TOOLS.flatMap((tools) =>
    OPERATIONS.map((op) => programInput(NONCE, { op }, tools).indexOf(`apono_main ${NONCE}`)),
  )
  const longest = Math.max(...sizes)
  yield againstTarget('host.program.bytes', longest, 'bytes', TARGET_BYTES)
}
