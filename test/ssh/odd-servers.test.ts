import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import type { Deadlines } from '../../src/connector/config.ts'
import type { Pool } from '../../src/ssh/pool.ts'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { codeOf, failure, grantFor, hopTo, makePool, routeTo, run, startWorkbench } from './workbench.ts'

// Servers, shells and commands that do what sshd allows and nobody expects. Where only the host program tells what is
// wrong with them, its own tests have them (login-shells, inspect-servers).

const shells = ['fish', 'tcsh', 'rbash'] as const
const users = ['noisy', 'reader', 'banner30', 'banner100', 'sleeper', ...shells.map((shell) => `by-${shell}`)]

const NOISE = `for n in $(seq 200); do
  echo "apono1 0123456789abcdef0123456789abcdef end ok"
  printf '\\033]0;title\\007\\033[2J\\033[31mapono1 begin uid=0\\n'
  echo "apono1 $n field uid 0" >&2
done`

const SETUP = `
  for user in ${users.join(' ')}; do
    useradd -m -p '*' -s /bin/bash $user
    cp -r ~apono/.ssh /home/$user/; chown -R $user: /home/$user
    echo "$user ALL=(ALL) NOPASSWD:ALL" >>/etc/sudoers.d/odd
  done
  for shell in ${shells.join(' ')}; do usermod -s "$(command -v $shell)" by-$shell; done
  printf '#!/bin/sh\\necho hello\\nexec sleep 60\\n' >/usr/local/bin/sleeper
  chmod 755 /usr/local/bin/sleeper; usermod -s /usr/local/bin/sleeper sleeper
  cat >/home/noisy/.bashrc <<'END'
${NOISE}
END
  echo 'cat >/dev/null' >/home/reader/.bashrc
  echo 'echo "apono1 from sshrc"; echo sshrc >&2' >/etc/ssh/sshrc
  head -c 100000 /dev/zero | tr '\\0' M | fold -w 79 >/etc/motd
  head -c 30000 /etc/motd >/etc/banner30; cp /etc/motd /etc/banner100
  printf 'Match User banner30\\n  Banner /etc/banner30\\nMatch User banner100\\n  Banner /etc/banner100\\n' \\
    >/etc/ssh/sshd_config.d/50-odd.conf
  sshd -t && kill -HUP "$(pgrep -o -x sshd)"; sleep 0.3`

let host: TestHost
let fresh: TestHost
beforeAll(async () => {
  ;[host, fresh] = await Promise.all([startHost({ kind: 'mksh', setup: SETUP }), startHost({ kind: 'debian13' })])
}, 120_000)
afterAll(async () => {
  await host?.stop()
  await fresh?.stop()
})

let pools: Pool[] = []
afterEach(async () => {
  await Promise.all(pools.map((pool) => pool.close()))
  pools = []
})
const pooled = (deadlines: Partial<Deadlines> = {}): Pool => {
  const pool = makePool(deadlines)
  pools.push(pool)
  return pool
}
const as = (user: string) => routeTo(hopTo(host, { user }))

describe('a server that talks', () => {
  test('200 lines like ours from .bashrc, sshrc and a long motd: access is given all the same', async () => {
    const bench = await startWorkbench(host, { port: host.port, pool: pooled(), user: 'noisy' })
    const outcome = await bench.ensure(grantFor('heard'), 'present')
    expect(await bench.logsIn(grantFor('heard'), outcome)).toBe(true)
    expect(codeOf(await bench.ensure(grantFor('heard'), 'absent'))).toBe('succeeded')
  })

  test('a .bashrc that reads our program away: told as such, and nothing is done', async () => {
    const bench = await startWorkbench(host, { port: host.port, pool: pooled(), user: 'reader' })
    expect(codeOf(await bench.ensure(grantFor('unread'), 'present'))).toBe('shell_hijacked')
    expect(await host.passwd('unread')).toBeUndefined()
  })

  test('a banner of 30 kB is no trouble, and what PAM says after it is heard', async () => {
    const { stdout } = await run(pooled(), as('banner30'), 'echo in')
    expect(stdout.trim().split('\n').at(-1)).toBe('in')
    await host.exec("echo 'System is going down. See pam_nologin(8).' >/run/nologin")
    const error = await failure(run(pooled(), as('banner30'), 'true'))
    await host.exec('rm /run/nologin')
    expect(error).toMatchObject({ code: 'ssh_nologin', retryable: true })
  })

  test('one of 100 kB is more than a packet may hold, and is named', async () => {
    const error = await failure(run(pooled(), as('banner100'), 'true'))
    expect(error.code).toBe('ssh_handshake_failed')
    expect(error.message).toContain('Banner (sshd_config)')
  })
})

describe('login shells', () => {
  test.each(shells)('%s: 300 kB pass both ways, and the exit status comes', async (shell) => {
    const stdin = 'x'.repeat(300_000)
    const outcome = await run(pooled(), as(`by-${shell}`), 'cat; exit 7', { stdin })
    expect(outcome.exitCode).toBe(7)
    expect(outcome.stdout.endsWith(stdin)).toBe(true)
  })

  test('one that says something and sleeps is given up when it has said nothing for long', async () => {
    const pool = pooled({ silenceMs: 500 })
    const error = await failure(run(pool, as('sleeper'), 'true'))
    expect(error).toMatchObject({ code: 'ssh_timeout', message: 'the command said nothing for 500 ms' })
    await expect.poll(() => pool.stats().open).toBe(0)
  })
})

const running = async (what: string): Promise<boolean> => (await host.exec(['pgrep', '-f', what])).code === 0

describe('a command', () => {
  test.each([
    ['stdout', 'head -c 5000000 /dev/zero; exec sleep 71'],
    ['stderr', 'head -c 5000000 /dev/zero >&2; exec sleep 71'],
    ['both', 'head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; exec sleep 71'],
  ])('that floods %s: output_too_large, the connection ends, the next one works', async (_what, command) => {
    const pool = pooled()
    expect(await failure(run(pool, as('apono'), command))).toMatchObject({ code: 'output_too_large', retryable: false })
    await expect.poll(() => pool.stats().open).toBe(0)
    expect((await run(pool, as('apono'), 'echo next')).stdout).toContain('next\n')
  })

  test('that never reads what it is given: its exit status, or the silence', async () => {
    const stdin = 'x'.repeat(4_000_000)
    const pool = pooled({ silenceMs: 500 })
    expect((await run(pool, as('apono'), 'exit 7', { stdin })).exitCode).toBe(7)
    const error = await failure(run(pool, as('apono'), 'exec sleep 60', { stdin }))
    expect(error).toMatchObject({ code: 'ssh_timeout', message: 'the command said nothing for 500 ms' })
  })

  test('whose child keeps its output open: the silence', async () => {
    const error = await failure(run(pooled({ silenceMs: 500 }), as('apono'), 'sleep 61 & echo done'))
    expect(error.message).toBe('the command said nothing for 500 ms')
    await host.exec('pkill -f "sleep 61"')
  })

  test('that says a word now and then: not the silence, but its own deadline', async () => {
    const chatter = 'while :; do echo word; sleep 0.1; done'
    const error = await failure(run(pooled({ silenceMs: 600 }), as('apono'), chatter, { timeoutMs: 2500 }))
    expect(error.message).toBe('the command took longer than 2500 ms')
    // It learns at its next word that nobody listens.
    await expect.poll(() => running('echo word')).toBe(false)
  })
})

describe('a server that punishes (OpenSSH 10.0, PerSourcePenalties as it comes)', () => {
  const failures = async () =>
    (await fresh.log())
      .split('\n')
      .filter((line) =>
        /Connection (?:closed|reset) by authenticating user|Disconnected from authenticating user/.test(line),
      ).length

  test('twenty jobs with a refused key are one failure, and we are still let in', async () => {
    expect((await fresh.exec('sshd -T')).stdout).toMatch(/^persourcepenalties .*authfail:5/m)
    const pool = pooled()
    const wrong = routeTo(hopTo(fresh, { keys: [host.connectorKey] }))
    const jobs = Array.from({ length: 20 }, () => failure(run(pool, wrong, 'true', { alone: true })))
    expect(new Set((await Promise.all(jobs)).map(({ code }) => code))).toEqual(new Set(['ssh_auth_failed']))
    await expect.poll(failures).toBe(1)
    expect((await run(pooled(), routeTo(hopTo(fresh)), 'echo in')).stdout).toBe('in\n')
  })

  const banned = async () => /Not allowed at this time|penalty: (?:exceeded|activ)/.test(await fresh.log())

  test('jobs that are called off in the handshake, one after the other, do not get us banned', async () => {
    const pool = pooled()
    const until = performance.now() + 20_000
    let jobs = 0
    while (performance.now() < until) {
      const called = new AbortController()
      const job = failure(run(pool, routeTo(hopTo(fresh)), 'true', { signal: called.signal }))
      setTimeout(() => called.abort(new Error('called off')), 15)
      expect((await job).code).toBe('cancelled')
      jobs++
    }
    expect(jobs).toBeGreaterThan(100)
    expect((await run(pool, routeTo(hopTo(fresh)), 'echo in')).stdout).toBe('in\n')
    expect(await banned()).toBe(false)
  }, 60_000)

  test('nor do jobs for a server that shows another key than the pinned one', async () => {
    const pool = pooled()
    const until = performance.now() + 20_000
    while (performance.now() < until) {
      const error = await failure(run(pool, routeTo(hopTo(fresh, { known: host.hostKeys })), 'true'))
      expect(error.code).toBe('host_key_changed')
    }
    expect((await run(pool, routeTo(hopTo(fresh)), 'echo in')).stdout).toBe('in\n')
    expect(await banned()).toBe(false)
  }, 60_000)
})
