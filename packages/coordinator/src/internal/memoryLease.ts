/**
 * The lease of `CoordinatorLease.layerMemory`: an entry in a table, good until it expires.
 *
 * Every step that looks at the table and changes it is synchronous, so no two of them overlap.
 */
import type { ProcessIdentity } from "@tidemark/platform/ProcessLiveness"
import type { Lease } from "@tidemark/wal/LeaseFormat"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import { LeaseHeld, LeaseNotHeld } from "../CoordinatorErrors.ts"
import type { CoordinatorLease, LeaseGrant } from "../CoordinatorLease.ts"
import { renewRepeatedly } from "./leaseRenewal.ts"

interface Tenure {
  readonly grant: LeaseGrant
  readonly acquiredUnixMillis: number
  readonly holder: ProcessIdentity
  expiresUnixMillis: number
}

interface Entry {
  /** Outlives the holders, so that it keeps growing. */
  generation: bigint
  tenure: Tenure | undefined
}

export interface LeaseRegistry {
  /** @internal */
  readonly entries: Map<string, Entry>
}

export const makeLeaseRegistry = (): LeaseRegistry => ({ entries: new Map() })

const leaseOf = (tenure: Tenure): Lease => ({
  pid: tenure.holder.pid,
  birth: tenure.holder.birth,
  generation: tenure.grant.generation,
  acquiredUnixMillis: tenure.acquiredUnixMillis,
  expiresUnixMillis: tenure.expiresUnixMillis
})

export const makeMemoryLease = (options: {
  readonly name: string
  readonly leaseMillis: number
  readonly holder: ProcessIdentity
  readonly registry: LeaseRegistry
}): CoordinatorLease["Service"] => {
  const { leaseMillis, name } = options
  const { entries } = options.registry
  const entry: Entry = entries.get(name) ?? { generation: 0n, tenure: undefined }
  entries.set(name, entry)
  /** The grants of this service, each with the scope that ends it. */
  const scopes = new WeakMap<LeaseGrant, Scope.Closeable>()

  const isRunning = (tenure: Tenure, now: number): boolean => entry.tenure === tenure && now < tenure.expiresUnixMillis

  const take = (clock: Clock.Clock): LeaseHeld | { readonly tenure: Tenure; readonly previous: Tenure | undefined } => {
    const now = clock.currentTimeMillisUnsafe()
    const previous = entry.tenure
    if (previous !== undefined && isRunning(previous, now)) {
      return new LeaseHeld({ name, holder: leaseOf(previous), isOverdue: false })
    }
    entry.generation += 1n
    const tenure: Tenure = {
      holder: options.holder,
      grant: {
        name,
        generation: entry.generation,
        isCurrent: () => isRunning(tenure, clock.currentTimeMillisUnsafe())
      },
      acquiredUnixMillis: now,
      expiresUnixMillis: now + leaseMillis
    }
    entry.tenure = tenure
    return { tenure, previous }
  }

  const renew = (tenure: Tenure): Effect.Effect<boolean> =>
    Effect.clockWith((clock) => {
      const now = clock.currentTimeMillisUnsafe()
      if (isRunning(tenure, now)) {
        tenure.expiresUnixMillis = now + leaseMillis
        return Effect.succeed(true)
      }
      // One that has expired is not picked up again: its holder has been told already that it is not current.
      return Effect.as(
        Effect.logWarning(`the coordinator lease of ${name} (generation ${tenure.grant.generation}) is lost`),
        false
      )
    })

  const end = (tenure: Tenure): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (entry.tenure !== tenure) return Effect.void
      entry.tenure = undefined
      return Effect.logInfo(`released the coordinator lease of ${name} (generation ${tenure.grant.generation})`)
    })

  return {
    name,

    acquire: Effect.gen(function*() {
      const taken = take(yield* Clock.Clock)
      if (taken instanceof LeaseHeld) return yield* taken
      const { previous, tenure } = taken
      const scope = yield* Scope.fork(yield* Effect.scope)
      scopes.set(tenure.grant, scope)
      yield* Scope.addFinalizer(scope, end(tenure))
      yield* renewRepeatedly(leaseMillis, renew(tenure)).pipe(
        Effect.interruptible,
        Effect.forkIn(scope, { startImmediately: true })
      )
      yield* Effect.logInfo(
        previous === undefined
          ? `acquired the coordinator lease of ${name} (generation ${tenure.grant.generation})`
          : `took over the coordinator lease of ${name} (generation ${tenure.grant.generation}) from process ${previous.holder.pid}, which had not renewed it`
      )
      return tenure.grant
    }).pipe(Effect.uninterruptible),

    release: (grant) =>
      Effect.suspend(() => {
        const scope = scopes.get(grant)
        return scope === undefined || !grant.isCurrent()
          ? new LeaseNotHeld({ name, generation: grant.generation })
          : Scope.close(scope, Exit.void)
      }),

    forceRelease: Effect.suspend(() => {
      const { tenure } = entry
      entry.tenure = undefined
      return tenure === undefined
        ? Effect.void
        : Effect.logInfo(
          `forced the release of the coordinator lease of ${name} (generation ${tenure.grant.generation})`
        )
    }),

    holder: Effect.clockWith((clock) => {
      const { tenure } = entry
      return Effect.succeed(
        tenure !== undefined && isRunning(tenure, clock.currentTimeMillisUnsafe()) ? leaseOf(tenure) : undefined
      )
    })
  }
}
