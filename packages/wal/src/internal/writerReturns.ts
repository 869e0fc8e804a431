/**
 * When do writers come back that were woken by a flush? Learned from what is seen: that a flush woke so many, and that
 * batches arrive; never which batch is whose.
 *
 * The writers of one flush are a **cohort**. Their age, the time since they were woken, is cut into classes, and of each
 * class two sums are kept: how many writers entered it, and how many of them came back before its end. The ratio is the
 * chance of a class. A chance for each age, and not a mean, because what matters is the shape: writers that all come
 * back after 20 us are worth waiting for, writers that take 1 ms and never less are not, and the mean of ten of these
 * and one of those says neither.
 *
 * 1. An arrival belongs to the cohorts in proportion to how likely each was to send it now, so a cohort has fractions
 *    of writers.
 * 2. An arrival that no cohort can have sent is a new writer, and teaches nothing.
 * 3. Writers that never come back need no special care: they make the chances at old ages go to zero.
 * 4. Old knowledge fades: both sums are halved whenever `memory` arrivals have been seen.
 * 5. Memory and time are bounded: `maxCohorts` cohorts, `ageClasses` classes of age.
 */

/** Ages below this are one class; above, a class reaches from one power of the square root of 2 to the next. */
const shortestAgeMicros = 8
const ageClasses = 40
/** Up to 8 us x 2^19, some 4 s; the last class has no end. */
const classEnds = Float64Array.from(
  { length: ageClasses },
  (_, index) => index === ageClasses - 1 ? Infinity : shortestAgeMicros * 2 ** (index / 2)
)

const classStart = (ageClass: number): number => ageClass === 0 ? 0 : classEnds[ageClass - 1] ?? 0

const classOf = (ageMicros: number): number => {
  if (ageMicros < shortestAgeMicros) return 0
  const ageClass = Math.min(ageClasses - 1, 1 + Math.floor(2 * Math.log2(ageMicros / shortestAgeMicros)))
  // Where the logarithm was rounded down to a whole number too early.
  return ageMicros < (classEnds[ageClass] ?? Infinity) ? ageClass : ageClass + 1
}

/** The last class has no end; its chance is spread over as much as lies before it. */
const classWidth = (ageClass: number): number =>
  ageClass === ageClasses - 1 ? classStart(ageClass) : (classEnds[ageClass] ?? 0) - classStart(ageClass)

const maxCohorts = 16
const memory = 1024
/**
 * Arrivals that are closer together than this count as one moment, so that a burst costs one look at the cohorts: a fifth
 * of the age of the newest cohort (a class of age is two fifths wide), and not less than a microsecond.
 */
const momentShare = 0.2
const shortestMomentMicros = 1
/** A cohort with less than this of a writer is gone. */
const leastWriters = 1e-3
/** The rate at an age that nothing is known about, per microsecond: small, and less for older cohorts. */
const unseenRate = 1e-6
/** The first step of a forecast, and the factor from one step to the next. */
const firstStepMicros = 4
const stepFactor = 1.3

/** Nobody is taken to come back with certainty, so that who does not is not divided by nothing. */
const leastLeft = 0.01

/** How much of those who entered a class is left at an age in it, when they come back evenly. */
const leftAt = (ageClass: number, chance: number, age: number): number =>
  1 - chance * Math.min(1, (age - classStart(ageClass)) / classWidth(ageClass))

interface Cohort {
  readonly wokenAt: number
  writers: number
}

/**
 * How many of the writers that are away are expected to be back `afterMicros` from now.
 *
 * @internal
 */
export interface ExpectedReturns {
  readonly afterMicros: number
  readonly writers: number
}

/** @internal */
export class WriterReturns {
  private readonly returned = new Float64Array(ageClasses)
  private readonly entered = new Float64Array(ageClasses)
  private returnedSum = 0
  private cohorts: Array<Cohort> = []
  /** Up to here it has been counted who entered which class. */
  private countedTo = 0
  /** Arrivals of one moment that no cohort was asked about. */
  private pending = 0
  private pendingAt = 0
  private momentEnds = 0
  private newestWokenAt = 0

  /** A batch has arrived. */
  arrived(nowMicros: number): void {
    if (nowMicros >= this.momentEnds) {
      if (this.pending > 0) this.settle()
      this.pendingAt = nowMicros
      this.momentEnds = nowMicros + Math.max(shortestMomentMicros, momentShare * (nowMicros - this.newestWokenAt))
    }
    this.pending += 1
  }

  /** A flush is over and its writers are about to be woken. */
  woken(nowMicros: number, writers: number): void {
    this.advance(nowMicros)
    if (writers > 0) {
      this.cohorts.push({ wokenAt: nowMicros, writers })
      this.entered[0] = (this.entered[0] ?? 0) + writers
    }
    this.newestWokenAt = nowMicros
    if (this.cohorts.length > maxCohorts) this.cohorts.shift()
  }

  /** At growing distances from now, up to the horizon; nothing when nobody is away. */
  forecast(nowMicros: number, horizonMicros: number): ReadonlyArray<ExpectedReturns> {
    this.advance(nowMicros)
    const points: Array<ExpectedReturns> = []
    if (this.cohorts.length === 0) return points
    const stillAway = this.cohorts.map(({ writers }) => writers)
    let away = 0
    for (const writers of stillAway) away += writers
    let afterMicros = 0
    for (let step = firstStepMicros; afterMicros < horizonMicros; step *= stepFactor) {
      const stepMicros = Math.min(step, horizonMicros - afterMicros)
      let left = 0
      for (const [index, { wokenAt }] of this.cohorts.entries()) {
        const age = Math.max(0, nowMicros - wokenAt) + afterMicros
        const writers = (stillAway[index] ?? 0) * this.chanceToStay(age, age + stepMicros)
        stillAway[index] = writers
        left += writers
      }
      afterMicros += stepMicros
      points.push({ afterMicros, writers: away - left })
    }
    return points
  }

  /** The chance of somebody who enters a class to come back before its end. */
  private chanceOf(ageClass: number): number {
    const entered = this.entered[ageClass] ?? 0
    return entered > leastWriters ? Math.min(1, (this.returned[ageClass] ?? 0) / entered) : 0
  }

  /** The chance of somebody of the first age to be away still at the second. */
  private chanceToStay(fromAge: number, toAge: number): number {
    let stays = 1
    let from = fromAge
    for (let ageClass = classOf(fromAge); from < toAge; ageClass++) {
      const to = Math.min(toAge, classEnds[ageClass] ?? Infinity)
      const chance = this.chanceOf(ageClass)
      stays *= leftAt(ageClass, chance, to) / Math.max(leftAt(ageClass, chance, from), leastLeft)
      from = to
    }
    return Math.min(1, stays)
  }

  /** How likely somebody of that age is to come back in the next microsecond. */
  private rateAt(age: number): number {
    const ageClass = classOf(age)
    const chance = this.chanceOf(ageClass)
    return chance / classWidth(ageClass) / Math.max(leftAt(ageClass, chance, age), leastLeft)
  }

  private advance(nowMicros: number): void {
    if (this.pending > 0) this.settle()
    this.momentEnds = 0
    this.countTo(nowMicros)
  }

  /** Counts who entered which class meanwhile. */
  private countTo(nowMicros: number): void {
    for (const { wokenAt, writers } of this.cohorts) {
      const last = classOf(nowMicros - wokenAt)
      for (let ageClass = classOf(Math.max(0, this.countedTo - wokenAt)) + 1; ageClass <= last; ageClass++) {
        this.entered[ageClass] = (this.entered[ageClass] ?? 0) + writers
      }
    }
    this.countedTo = Math.max(this.countedTo, nowMicros)
  }

  /** Finds out whose the pending arrivals are. */
  private settle(): void {
    const { pendingAt } = this
    this.countTo(pendingAt)
    let arrivals = this.pending
    this.pending = 0
    // A cohort may be too small for its share: the rest is for the others.
    while (arrivals > leastWriters && this.cohorts.length > 0) arrivals -= this.share(arrivals, pendingAt)
    if (this.returnedSum > memory) this.fade()
  }

  /** Gives each cohort its share of the arrivals, and answers how many found a cohort. */
  private share(arrivals: number, atMicros: number): number {
    const weightOf = ({ wokenAt, writers }: Cohort) => {
      const age = Math.max(0, atMicros - wokenAt)
      return writers * (this.rateAt(age) + unseenRate / (1 + age / 1000))
    }
    const weights = this.cohorts.map(weightOf)
    let sum = 0
    for (const weight of weights) sum += weight
    let found = 0
    for (const [index, cohort] of this.cohorts.entries()) {
      const share = Math.min(cohort.writers, arrivals * (weights[index] ?? 0) / sum)
      const ageClass = classOf(atMicros - cohort.wokenAt)
      this.returned[ageClass] = (this.returned[ageClass] ?? 0) + share
      cohort.writers -= share
      found += share
    }
    this.returnedSum += found
    this.cohorts = this.cohorts.filter(({ writers }) => writers > leastWriters)
    return found
  }

  private fade(): void {
    this.returnedSum /= 2
    for (let ageClass = 0; ageClass < ageClasses; ageClass++) {
      this.returned[ageClass] = (this.returned[ageClass] ?? 0) / 2
      this.entered[ageClass] = (this.entered[ageClass] ?? 0) / 2
    }
  }
}
