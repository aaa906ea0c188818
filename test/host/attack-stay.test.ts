import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startHost, type TestHost } from '../hosts/hosts.ts'
import { makePerson, type Person } from './person.ts'
import { expectGone, PROGRAM, rootFiles, until } from './world.ts'

/**
 * Everything that a person without root can do in a live session to stay. Each was done here to a real server; what is
 * asserted is the server's state after the end.
 */
let host: TestHost
let person: Person
let before: string[]
beforeAll(async () => {
  host = await startHost({
    // As on a server that is no container: namespaces of one's own, descriptors of one's other processes.
    run: { securityOptions: ['seccomp=unconfined', 'apparmor=unconfined'] },
  })
  before = await rootFiles(host)
})
afterAll(() => host?.stop())

let serial = 0
let login = ''
let id = ''
beforeEach(async () => {
  login = `mal${++serial}`
  id = `grt_s${serial}`
  person = await makePerson(host)
})

/** Outlives the login that starts it. */
const background = (script: string): string => `setsid nohup ${script} >/dev/null 2>&1 </dev/null & true`
const perl = (program: string): string => background(`perl -e '${program}'`)
/** The newest process of all is theirs. */
const CHAIN = 'read -r _ _ _ _ last </proc/loadavg; read -r owner <"/proc/$last/loginuid"; test "$owner" = UID'
const runs = (pattern: string): string => `pgrep -u LOGIN -f '${pattern}'`

interface Attack {
  readonly script: string
  /** When it is in place, by a condition of the server's. */
  readonly stands: string
  readonly residue?: object
}

const attacks: Record<string, Attack> = {
  'own keys in all files that sshd may read': {
    script: `umask 077; mkdir .ssh; echo 'PUBLIC' | tee .ssh/authorized_keys >.ssh/authorized_keys2`,
    stands: 'test -s /home/LOGIN/.ssh/authorized_keys2',
    residue: { kind: 'authorized_key', detail: '2 keys in ~/.ssh', removed: false },
  },
  'own keys behind a link, in a folder that is shut': {
    script: `umask 077; mkdir .ssh; echo 'PUBLIC' >keys; ln -s ../keys .ssh/authorized_keys; chmod 0 keys .ssh`,
    stands: 'test -s /home/LOGIN/keys',
    residue: { kind: 'authorized_key', detail: '1 keys in ~/.ssh', removed: false },
  },
  'a crontab': {
    script: `{ echo '# mine'; yes '* * * * * sleep 99' | head -n 500; } | crontab -`,
    stands: 'test -s /var/spool/cron/crontabs/LOGIN',
    residue: { kind: 'crontab', detail: '500 lines', removed: true },
  },
  'an at job for later': {
    script: 'echo "sleep 99" | at now + 2 minutes',
    stands: 'atq | grep -w LOGIN',
    residue: { kind: 'at_job', removed: true },
  },
  'an at job that runs': { script: 'echo "exec sleep 99" | at now', stands: runs('sleep 99') },
  'a process of a session of its own, deaf to signals': {
    script: background(`sh -c 'trap "" HUP INT TERM QUIT TSTP; while :; do sleep 99; done'`),
    stands: runs('sleep 99'),
  },
  'two processes that revive each other': {
    script: perl(
      'while (1) { $p = fork; if (!$p) { $q = getppid; select undef, undef, undef, .001 while getppid == $q; setpgrp; next } waitpid $p, 0 }',
    ),
    stands: 'test $(pgrep -c -u LOGIN perl) -ge 2',
  },
  'processes that fork and end faster than anybody can look': {
    script: perl('fork; fork; while (1) { fork and exit }'),
    stands: CHAIN,
  },
  'the same, stopping every process of theirs': {
    script: perl('fork; while (1) { kill STOP => -1; fork and exit }'),
    stands: CHAIN,
  },
  'as many processes as they may have': {
    script: `ulimit -u 200; ${perl('while (1) { fork; select undef, undef, undef, .02 }')}`,
    stands: 'test $(pgrep -c -u LOGIN perl) -ge 190',
  },
  'a process that calls itself sshd, one without a name, one that is stopped': {
    script: `cp /bin/sleep sshd; ${background('bash -c "exec -a \\"sshd: apono [priv]\\" ./sshd 99"')}
      ${perl('$0 = ""; sleep 99')}; ${perl('kill STOP => $$')}`,
    stands:
      'test $(pgrep -c -u LOGIN) -ge 3 && grep -q "T (stopped)" $(pgrep -u LOGIN perl | sed "s|.*|/proc/&/status|")',
  },
  'namespaces of their own for users and processes': {
    script: background('unshare --user --map-root-user --pid --fork sleep 99'),
    stands: runs('sleep 99'),
  },
  'a socket without a name in any folder, and shared memory': {
    script: `echo x >/dev/shm/LOGIN; ${perl('use IO::Socket::UNIX; $s = IO::Socket::UNIX->new(Local => "\\0LOGIN", Listen => 1); $s->accept')}`,
    stands: 'grep -q @LOGIN /proc/net/unix',
  },
  'what their shell starts with each login and at each end': {
    script: `mkdir .ssh; echo 'setsid nohup sleep 91 >/dev/null 2>&1 </dev/null &' | tee .ssh/rc .profile .bash_logout >>.bashrc
      sed -i '1i setsid nohup sleep 92 >/dev/null 2>&1 </dev/null &' .bashrc`,
    stands: runs('sleep 91'),
  },
}

describe('the person cannot stay by', () => {
  it.each(Object.entries(attacks))('%s', async (_name, { script, stands, residue }) => {
    const { certificatePath, reply } = await person.present({ id, login })
    const fill = (text: string) =>
      text.replaceAll('LOGIN', login).replaceAll('PUBLIC', person.key.publicKey).replaceAll('UID', String(reply.uid))
    expect(await person.login(certificatePath, fill(script), login)).toMatchObject({ code: 0 })
    // A second login, for what a login sets off; it stays open, and clings to its terminal.
    const session = person.stay(certificatePath, login)
    session.write(`trap '' HUP TERM; trap 'setsid nohup sleep 93 &' EXIT\n`)
    await until(host, fill(stands))

    const result = await person.absent({ id, login })
    expect(result).toMatchObject({ processesLeft: 0, account: 'locked', assurance: 'observed' })
    if (residue) expect(result.residue).toContainEqual(expect.objectContaining(residue))
    await expectGone(host, { person, login, uid: reply.uid, certificatePath })
    expect(await session.closed).not.toBe(0)
  })

  it('any of these with a file of root’s', async () => {
    expect(await rootFiles(host)).toEqual(before)
  })

  it('being in no list: whoever forks and ends all the time is in each', async () => {
    const { certificatePath, reply } = await person.present({ id, login })
    await person.login(certificatePath, perl('while (1) { fork and exit }'), login)
    await until(host, CHAIN.replace('UID', String(reply.uid)))
    const lists = `set -f; places; A_uid=${reply.uid} P_login=${login} P_root_processes=session
for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do [ -n "$(processes '')" ] || echo none; done`
    expect((await host.exec(['sh', '-s'], { input: `${PROGRAM}\n${lists}\n` })).stdout).toBe('')
    expect(await person.absent({ id, login })).toMatchObject({ processesLeft: 0 })
    await expectGone(host, { person, login, uid: reply.uid, certificatePath })
  })
})
