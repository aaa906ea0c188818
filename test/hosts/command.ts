import { spawn } from 'node:child_process'

export type CommandResult = {
  /** The exit code; null when a signal ended it (also ours, at the deadline). */
  code: number | null
  stdout: string
  stderr: string
}

export type CommandOptions = {
  input?: string
  /** Milliseconds until SIGKILL; default 60 s. */
  timeoutMs?: number
  env?: NodeJS.ProcessEnv
  /** Also pass its standard error on to ours: for steps that take long and say how far they are. */
  progress?: boolean
}

/** Runs a program to its end. A non-zero exit is a result, not an error. */
export function runCommand(file: string, args: readonly string[], options: CommandOptions = {}) {
  return new Promise<CommandResult>((resolve, reject) => {
    const child = spawn(file, args, {
      stdio: 'pipe',
      timeout: options.timeoutMs ?? 60_000,
      killSignal: 'SIGKILL',
      env: options.env ?? process.env,
    })
    const stdout: Buffer[] = []
    const stderr: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
    if (options.progress) child.stderr.pipe(process.stderr, { end: false })
    child.on('error', reject)
    child.on('close', (code) =>
      resolve({ code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() }),
    )
    // A program that does not read its input is no failure of ours.
    child.stdin.on('error', () => undefined)
    child.stdin.end(options.input ?? '')
  })
}

/** The same for a program that must succeed; gives its standard output. */
export async function mustRun(file: string, args: readonly string[], options: CommandOptions = {}) {
  const result = await runCommand(file, args, options)
  if (result.code !== 0) {
    throw new Error(`${file} ${args.join(' ')} exited ${result.code}: ${(result.stderr || result.stdout).trim()}`)
  }
  return result.stdout
}
