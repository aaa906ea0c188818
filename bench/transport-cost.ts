import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { ensurePresent } from '../src/host/host-program.ts'
import { makePerson, runContext } from '../test/host/person.ts'
import { startHost, type TestHost } from '../test/hosts/hosts.ts'
import { againstTarget, median, type Subject } from './measure.ts'
import { newPool, routeTo, type Target } from './pool.ts'

/**
 * What it costs the connector itself: processor time of one grant over a new connection (certificate, handshake, program,
 * result; the median of {@link ROUNDS} means over {@link GRANTS}, so that collecting garbage counts), and memory of one
 * connection in the pool, from a process of its own that holds {@link CONNECTIONS} of them.
 */
const ROUNDS = 5
const GRANTS = 40
const TARGET_CPU_MS = 12
export const CONNECTIONS = 200
const TARGET_BYTES = 100 * 1024

const cpuPerGrant = async (host: TestHost): Promise<number> => {
  const [person, route] = [await makePerson(host), routeTo(host)]
  const once = async (): Promise<void> => {
    const pool = newPool()
    await pool.use(route, { alone: true }, (link) => ensurePresent(link, runContext(), person.request({}, 'present')))
    await pool.close()
  }
  for (let n = 0; n < 20; n++) await once()
  const means: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const before = process.cpuUsage()
    for (let n = 0; n < GRANTS; n++) await once()
    const { user, system } = process.cpuUsage(before)
    means.push((user + system) / 1000 / GRANTS)
  }
  return median(means)
}

const bytesPerConnection = (host: TestHost): Promise<number> =>
  new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      ['--expose-gc', fileURLToPath(new URL('./hold-connections.ts', import.meta.url))],
      {
        stdio: ['pipe', 'pipe', 'inherit'],
      },
    )
    let output = ''
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
    child.on('error', reject)
    child.on('close', (code) => {
      const bytes = Number(output.trim())
      if (code === 0 && bytes > 0) resolve(bytes)
      else reject(new Error(`the process that holds connections exited ${code}: ${output}`))
    })
    const target: Target = {
      address: host.address,
      port: host.port,
      hostKeys: host.hostKeys,
      connectorKey: host.connectorKey,
    }
    child.stdin.end(JSON.stringify(target))
  })

export const transportCost: Subject = async function* (only) {
  const [cpu, memory] = ['transport.cpu_per_cold_grant', 'transport.rss_per_connection'] as const
  if (![cpu, memory].some((name) => name.startsWith(only))) return
  const host = await startHost()
  try {
    if (cpu.startsWith(only)) yield againstTarget(cpu, await cpuPerGrant(host), 'ms', TARGET_CPU_MS)
    if (memory.startsWith(only)) {
      // One connection for each user, all to one sshd.
      await host.exec(
        `for n in $(seq 0 ${CONNECTIONS + 49}); do useradd -M -d /home/apono -p '*' user$n; done; chmod 755 /home/apono /home/apono/.ssh; chmod 644 /home/apono/.ssh/authorized_keys
        chown -R root: /home/apono`,
      )
      yield againstTarget(memory, await bytesPerConnection(host), 'bytes', TARGET_BYTES)
    }
  } finally {
    await host.stop()
  }
}
