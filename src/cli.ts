#!/usr/bin/env node
/**
 * One command, few verbs. This folder's only file besides the rooms: it reads the environment, starts what was asked
 * for, and turns signals into an orderly end. It decides nothing else.
 *
 * A verb imports its room when it runs: a connector holds nothing of the control plane in memory, and the other way round.
 */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { JobError } from './host/errors.ts'
import { systemClock } from './observability/clock.ts'
import { createLogger, LOG_LEVELS, type Logger } from './observability/log.ts'

const USAGE = `apono-connector: just-in-time SSH access to Linux servers

  apono-connector connector      run a connector (APONO_URL, APONO_TOKEN or APONO_TOKEN_FILE, APONO_CONNECTOR_ID)
  apono-connector control-plane  run the control plane (APONO_LISTEN, APONO_TLS_CERT_FILE, APONO_TLS_KEY_FILE, APONO_STATE_DIR)
  apono-connector standalone     run both together over one folder (APONO_STATE_DIR)
  apono-connector uninstall --server-file FILE [--keep-uids] [--keep-homes]
                                 take everything of ours off one server (docs/uninstall.md)
  apono-connector guard check FILE JOB.json
                                 whether a guard file admits a job, offline: exit 0 yes, 1 no, 2 DNS decides (docs/guard.md)
  apono-connector --version
  apono-connector --help

Everything else comes from the environment: docs/configuration.md
`

/** sysexits.h: a command that was misspelt; a configuration that can never work. 1: a command that failed. */
const EXIT_FAILED = 1
/** Of `guard check`: only the addresses of a name can tell. */
const EXIT_DEPENDS = 2
const EXIT_USAGE = 64
const EXIT_CONFIG = 78

const say = (text: string): void => void process.stdout.write(`${text}\n`)

const version = (): string => {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

const exitForConfig = (problems: readonly string[]): never => {
  const lines = problems.map((problem) => `  ${problem}\n`).join('')
  process.stderr.write(`apono-connector: the configuration cannot work:\n${lines}`)
  process.exit(EXIT_CONFIG)
}

const logger = (): Logger => {
  const wanted = process.env['APONO_LOG_LEVEL'] ?? 'info'
  return createLogger(LOG_LEVELS.find((level) => level === wanted) ?? 'info')
}

const ofProcess = { clock: systemClock, random: randomBytes, environment: process.env }
const deps = async (log: Logger) => {
  const { hostProgram } = await import('./host/host-program.ts')
  return { ...ofProcess, log, hostProgram, version: version() }
}

const showFirstToken = async (of: {
  readonly firstAdminToken: string | null
  firstAdminTokenShown(): Promise<void>
}): Promise<void> => {
  if (of.firstAdminToken === null) return
  say(`first admin token, shown only this once: ${of.firstAdminToken}`)
  await of.firstAdminTokenShown()
}

/** Resolves at the first SIGTERM or SIGINT; the second ends the process at once. */
const firstSignal = (): Promise<void> =>
  new Promise((resolve) => {
    let signals = 0
    const onSignal = (): void => {
      signals += 1
      if (signals > 1) process.exit(1)
      resolve()
    }
    process.on('SIGTERM', onSignal)
    process.on('SIGINT', onSignal)
  })

/** A verb runs until `ended` and has stopped in order when it resolves. `rest` is what stands behind it. */
type Verb = (ended: Promise<void>, rest: readonly string[]) => Promise<void> | void
const VERBS_WITH_ARGUMENTS = new Set(['uninstall', 'guard'])

const misspelt = (): never => {
  process.stderr.write(USAGE)
  process.exit(EXIT_USAGE)
}

const failed = (error: JobError): never => {
  process.stderr.write(`apono-connector: ${error.code}: ${error.message}\n${error.hint}\n`)
  process.exit(EXIT_FAILED)
}

const runConnector: Verb = async (ended) => {
  const { readConfig } = await import('./connector/config.ts')
  const parsed = readConfig(process.env)
  if (!parsed.ok) return exitForConfig(parsed.problems)
  const { startConnector } = await import('./connector/connector.ts')
  const connector = await startConnector(parsed.config, await deps(createLogger(parsed.config.logLevel)))
  await ended
  await connector.stop()
}

const runControlPlane: Verb = async (ended) => {
  const { parseControlPlaneConfig } = await import('./control-plane/config.ts')
  const parsed = parseControlPlaneConfig(process.env)
  if (!parsed.ok) return exitForConfig(parsed.problems)
  const { startControlPlane } = await import('./control-plane/control-plane.ts')
  const controlPlane = await startControlPlane(parsed.config, { clock: systemClock, log: logger() })
  await showFirstToken(controlPlane)
  await ended
  await controlPlane.stop()
}

const runStandalone: Verb = async (ended) => {
  const { parseStandaloneConfig } = await import('./standalone/config.ts')
  const parsed = parseStandaloneConfig(process.env)
  if (!parsed.ok) return exitForConfig(parsed.problems)
  const { startStandalone } = await import('./standalone/standalone.ts')
  const standalone = await startStandalone(parsed.config, await deps(createLogger(parsed.config.connectorLogLevel)))
  say(`listening on ${standalone.url}`)
  say(`secret files are read from ${parsed.config.secretDirectory}`)
  await showFirstToken(standalone)
  say('ready')
  await ended
  await standalone.stop()
}

const uninstallOptions = (rest: readonly string[]) => {
  try {
    const options = {
      'server-file': { type: 'string' },
      'keep-uids': { type: 'boolean', default: false },
      'keep-homes': { type: 'boolean', default: false },
    } as const
    const { values } = parseArgs({ args: [...rest], options })
    const file = values['server-file']
    return file === undefined ? misspelt() : { file, keepUids: values['keep-uids'], keepHomes: values['keep-homes'] }
  } catch {
    return misspelt()
  }
}

const runUninstall: Verb = async (_ended, rest) => {
  const { file, keepUids, keepHomes } = uninstallOptions(rest)
  const { readLocalConfig } = await import('./connector/config.ts')
  const { readServerFile, uninstallServer } = await import('./connector/uninstall.ts')
  const local = readLocalConfig(process.env)
  const definition = readServerFile(file)
  const problems = [...local.problems, ...definition.problems]
  if (definition.file === null || problems.length > 0) return exitForConfig(problems)
  const wishes = { keepUids, homes: keepHomes ? 'archive' : 'delete' } as const
  try {
    await uninstallServer(definition.file, wishes, { ...local.config, ...ofProcess })
  } catch (error) {
    if (error instanceof JobError) failed(error)
    throw error
  }
  const { name, host, port } = definition.file.server
  say(`${name} (${host}:${port}): nothing of ours is left`)
}

const runGuardCheck: Verb = async (_ended, [check, file, jobFile, ...more]) => {
  if (check !== 'check' || file === undefined || jobFile === undefined || more.length > 0) return misspelt()
  const { readSecretDirectoryOf } = await import('./connector/config.ts')
  const { checkGuard } = await import('./connector/guard-check.ts')
  const { secretDirectory, problems } = readSecretDirectoryOf(process.env)
  if (problems.length > 0) return exitForConfig(problems)
  const outcome = checkGuard(file, jobFile, { secretDirectory, now: systemClock.now() })
  if (outcome.kind === 'problems') return exitForConfig(outcome.problems)
  say(outcome.text)
  if (outcome.kind !== 'admitted') process.exit(outcome.kind === 'denied' ? EXIT_FAILED : EXIT_DEPENDS)
}

const verbs: Readonly<Record<string, Verb>> = {
  connector: runConnector,
  'control-plane': runControlPlane,
  standalone: runStandalone,
  uninstall: runUninstall,
  guard: runGuardCheck,
  '--version': () => say(version()),
  '--help': () => say(USAGE),
}

const main = async (): Promise<void> => {
  // Before anything starts: as PID 1 of a container, a signal that nobody waits for is lost.
  const ended = firstSignal()
  // Databases and keys are made for this user only, wherever they are told to be.
  process.umask(0o077)
  const verb = process.argv[2] ?? ''
  const run = Object.hasOwn(verbs, verb) ? verbs[verb] : undefined
  const rest = process.argv.slice(3)
  if (run === undefined || (rest.length > 0 && !VERBS_WITH_ARGUMENTS.has(verb))) return misspelt()
  await run(ended, rest)
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(
      `apono-connector: could not start: ${error instanceof Error ? error.message : String(error)}\n`,
    )
    process.exit(1)
  },
)
