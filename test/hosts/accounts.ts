import type { CommandResult } from './command.ts'

// What a host knows of a login, read from the host's own files and not from anything of ours.

export type RootExec = (command: string | readonly string[]) => Promise<CommandResult>

export type PasswdEntry = { login: string; uid: number; gid: number; comment: string; home: string; shell: string }

export type ShadowEntry = {
  hash: string
  /** No password can match: the hash starts with `!` or `*`. */
  locked: boolean
  /** Day number since 1970 after which the account is dead; empty when never. */
  expires: string
  /** All nine fields as they stand. */
  fields: readonly string[]
}

export type HostProcess = {
  pid: number
  state: string
  /** Real, effective, saved and file system uid. */
  uids: readonly number[]
  /** Who logged in, kept through sudo; undefined when nobody did. */
  loginuid: number | undefined
  command: string
}

/** By name or number. Where there is no getent (BusyBox), there is no name service but the files. */
const getentScript = `
command -v getent >/dev/null && exec getent "$1" "$2"
awk -F: -v key="$2" '$1 == key || $3 == key && key ~ /^[0-9]+$/ { print; found = 1; exit } END { if (!found) exit 2 }' "/etc/$1"
`

/** One line of a database of the name service, as fields; undefined when there is none. */
export async function getent(exec: RootExec, database: string, key: string): Promise<string[] | undefined> {
  const { code, stdout, stderr } = await exec(['sh', '-c', getentScript, 'sh', database, key])
  if (code === 2) return undefined
  if (code !== 0) throw new Error(`getent ${database} ${key} exited ${code}: ${stderr.trim()}`)
  return stdout.trimEnd().split(':')
}

export async function passwd(exec: RootExec, login: string): Promise<PasswdEntry | undefined> {
  const fields = await getent(exec, 'passwd', login)
  if (fields === undefined) return undefined
  const [name = '', , uid, gid, comment = '', home = '', shell = ''] = fields
  return { login: name, uid: Number(uid), gid: Number(gid), comment, home, shell }
}

export async function shadow(exec: RootExec, login: string): Promise<ShadowEntry | undefined> {
  const fields = await getent(exec, 'shadow', login)
  if (fields === undefined) return undefined
  const [, hash = '', , , , , , expires = ''] = fields
  return { hash, locked: /^[!*]/.test(hash), expires, fields }
}

/** The names of all the login's groups, its own first; empty when there is no such login. */
export async function groupsOf(exec: RootExec, login: string): Promise<string[]> {
  if ((await passwd(exec, login)) === undefined) return []
  const { stdout } = await exec(['id', '-Gn', login])
  return stdout.trim().split(' ')
}

const processScript = `
for d in /proc/[0-9]*; do
  { cat "$d/status" && printf 'Loginuid:\\t' && cat "$d/loginuid" && printf '\\nCommand:\\t' && tr '\\000\\n' '  ' <"$d/cmdline" && printf '\\n\\n'; } 2>/dev/null
done
true
`

/** All processes that run as this uid in any way, or that somebody started who logged in as it. */
export async function processesOf(exec: RootExec, uid: number): Promise<HostProcess[]> {
  const { stdout } = await exec(processScript)
  return stdout
    .split('\n\n')
    .flatMap(parseProcess)
    .filter((process) => process.loginuid === uid || process.uids.includes(uid))
}

const NOBODY_LOGGED_IN = 4_294_967_295

function parseProcess(block: string): HostProcess[] {
  const fields = new Map(
    block.split('\n').map((line) => {
      const colon = line.indexOf(':')
      return [line.slice(0, colon), line.slice(colon + 1).trim()]
    }),
  )
  // A process that ended while we read it is no process.
  if (!fields.has('Command') || !fields.has('Pid')) return []
  const loginuid = Number(fields.get('Loginuid'))
  return [
    {
      pid: Number(fields.get('Pid')),
      state: (fields.get('State') ?? '').slice(0, 1),
      uids: (fields.get('Uid') ?? '').split(/\s+/).map(Number),
      loginuid: loginuid === NOBODY_LOGGED_IN ? undefined : loginuid,
      command: fields.get('Command') || (fields.get('Name') ?? ''),
    },
  ]
}
