import { GenericContainer, PullPolicy } from 'testcontainers'
import { runLabels } from './cleanup.ts'

export type LoopbackOptions = {
  /** False where the command is an init itself. */
  init?: false
  /** How many processes it may have; default: any number. */
  processes?: number
}

/** A container of this run, of an image that is here, whose ports are published on 127.0.0.1 and nowhere else. */
export function loopbackContainer(image: string, options: LoopbackOptions = {}): GenericContainer {
  // Read when testcontainers first looks for the engine: getHost() would say `localhost`.
  process.env['TESTCONTAINERS_HOST_OVERRIDE'] ??= '127.0.0.1'
  return new LoopbackContainer(image, options)
    .withAutoCleanup(false)
    .withPullPolicy(PullPolicy.neverPull())
    .withLabels(runLabels())
}

/**
 * testcontainers publishes on every address and has no option for an init. `hostConfig` is its own
 * protected field: checked with 12.2.0, and hosts.test.ts looks at what the engine made of it.
 */
class LoopbackContainer extends GenericContainer {
  readonly #run: LoopbackOptions

  constructor(image: string, run: LoopbackOptions) {
    super(image)
    this.#run = run
  }

  protected override async beforeContainerCreated(): Promise<void> {
    this.hostConfig.Init = this.#run.init ?? true
    if (this.#run.processes !== undefined) this.hostConfig.PidsLimit = this.#run.processes
    const bindings: Record<string, { HostIp?: string }[]> = this.hostConfig.PortBindings ?? {}
    for (const binding of Object.values(bindings).flat()) binding.HostIp = '127.0.0.1'
  }
}
