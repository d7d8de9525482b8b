//! The world: clock, network, processes. See the [module documentation](super).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LOOK_EVERY;
use super::actor::{ActorConn, ActorListener};
use super::connection::{EndId, Owner};
use super::faults::{Faults, Link};
use super::network::{ListenerId, Meant, Net, Place, VirtualClock};
use super::placeholder;
use crate::clock::Random;
use crate::driver::{Nanos, Target};
use crate::waker::Waker;

/// How long the default blocker really waits when nothing is going to happen in the world, in milliseconds.
const REAL_WAIT_MS: u8 = 50;

/// Clock, network and processes of one simulation. Cheap to clone; all clones are the same world.
#[derive(Clone)]
pub struct World(Rc<Shell>);

struct Shell {
    clock: Rc<VirtualClock>,
    tick: Cell<Nanos>,
    look_every: Cell<u32>,
    net: RefCell<Net>,
    blocker: RefCell<Option<Blocker>>,
    /// For those who script the world; apart from the network's, so that neither disturbs the other.
    random: RefCell<Random>,
    seed: u64,
}

/// What a driver waits for, told to the blocker.
pub struct Pause<'a> {
    pub world: &'a World,
    /// The driver that waits. [`Node::has_due`] says when the network has something for it.
    pub node: &'a Node,
    /// When to go on whatever happens; `None`: only when something happens.
    pub until: Option<Nanos>,
    /// The real descriptors it listens to: its waker and the doorbells it watches. Go on when one is readable.
    pub fds: &'a [BorrowedFd<'a>],
}

/// Lets time pass until what a driver waits for is there. May return early, without anything being there.
pub type Blocker = Rc<dyn Fn(&Pause<'_>)>;

/// A driver's place in the world. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(super) Rc<Place>);

/// What is open in a world, to look for leaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Ends of connections that their owner has not closed (two a connection).
    pub open_ends: usize,
    /// Listeners.
    pub listeners: usize,
    /// Connections that wait to be accepted.
    pub backlog: usize,
    /// Ends that were closed on both sides and are kept all the same: always 0, or the world itself leaks.
    pub forgotten: usize,
}

impl World {
    /// The time at which every world begins: not 0, which is before everything in many a calculation.
    pub const EPOCH: Nanos = 1_000_000_000;

    /// A world at time [`World::EPOCH`], without faults.
    pub fn new(seed: u64) -> Self {
        let clock = Rc::new(VirtualClock { now: Cell::new(Self::EPOCH), next_at: Cell::new(Nanos::MAX) });
        let mut seeds = Random::seeded(seed);
        let net = Net::new(clock.clone(), Random::seeded(seeds.next()));
        Self(Rc::new(Shell {
            clock,
            tick: Cell::new(0),
            look_every: Cell::new(LOOK_EVERY),
            net: RefCell::new(net),
            blocker: RefCell::new(None),
            random: RefCell::new(Random::seeded(seeds.next())),
            seed,
        }))
    }

    /// The virtual time.
    pub fn now(&self) -> Nanos {
        self.0.clock.now.get()
    }

    /// Moves the clock; everything that happens on the network until then happens. A time that has passed changes nothing.
    pub fn advance_to(&self, time: Nanos) {
        self.net(|net| net.advance_to(time));
    }

    /// When something happens next on the network; always later than [`now`](Self::now). It may turn out to be nothing
    /// that anybody notices.
    pub fn next_event_at(&self) -> Option<Nanos> {
        let at = self.0.clock.next_at.get();
        (at != Nanos::MAX).then_some(at)
    }

    /// Makes every look at a driver's clock take so long (0 at first): a worker that yields in a loop until some
    /// time has passed needs that, or somebody who moves the clock meanwhile.
    pub fn set_tick(&self, nanos: Nanos) {
        self.0.tick.set(nanos);
    }

    /// Makes drivers look at real descriptors in every so manyth `poll` that does not wait ([`LOOK_EVERY`] at first); not 0.
    pub fn set_look_every(&self, polls: u32) {
        self.0.look_every.set(polls);
    }

    /// A random number of the world's: for whoever scripts it.
    pub fn random(&self) -> u64 {
        self.0.random.borrow_mut().next()
    }

    /// Installs what lets time pass while a driver waits. The default is [`Pause::skip`].
    pub fn set_blocker(&self, blocker: Blocker) {
        *self.0.blocker.borrow_mut() = Some(blocker);
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.net(|net| net.faults = faults);
    }

    /// What TCP connections are like: the latency from now on, the window if they are made from now on.
    pub fn set_tcp(&self, link: Link) {
        self.net(|net| net.tcp = link);
    }

    /// What Unix connections are like, likewise.
    pub fn set_unix(&self, link: Link) {
        self.net(|net| net.unix = link);
    }

    /// A listening socket, as a placeholder for [`Driver::listen`](crate::Driver::listen). Several may listen at one TCP
    /// address (SO_REUSEPORT). Port 0 is replaced by a free one: [`address_of`](Self::address_of) says which.
    ///
    /// # Errors
    /// EADDRINUSE for a path where somebody listens; or what the system says to a memfd.
    pub fn listener(&self, at: &Target) -> io::Result<OwnedFd> {
        let id = self.net(|net| net.listen(at))?;
        self.placeholder(Meant::Listener(id))
    }

    /// Where a placeholder of [`listener`](Self::listener) listens.
    ///
    /// # Errors
    /// ENOTSOCK if it is none.
    pub fn address_of(&self, listener: impl AsFd) -> io::Result<Target> {
        let id = self.listener_of(listener)?;
        self.net(|net| net.listeners.get(id).map(|listener| listener.at.clone())).ok_or_else(not_a_socket)
    }

    /// Takes the next connection that waits at a placeholder's listener, for a simulated peer.
    ///
    /// # Errors
    /// ENOTSOCK if it is none.
    pub fn accept_on(&self, listener: impl AsFd) -> io::Result<Option<ActorConn>> {
        let id = self.listener_of(listener)?;
        let end = self.net(|net| net.accept_for_actor(id));
        Ok(end.map(|end| ActorConn::new(self, end)))
    }

    /// Closes the listener of a placeholder that no driver has taken over. (Dropping the placeholder does not.)
    ///
    /// # Errors
    /// ENOTSOCK if it is none.
    pub fn close_listener(&self, listener: impl AsFd) -> io::Result<()> {
        let id = self.listener_of(listener)?;
        self.net(|net| net.close_listener(id));
        Ok(())
    }

    /// Two connected Unix sockets: a placeholder for [`Driver::adopt`](crate::Driver::adopt), and the other end.
    ///
    /// # Errors
    /// What the system says to a memfd.
    pub fn pair(&self) -> io::Result<(OwnedFd, ActorConn)> {
        let [ours, theirs] = self.net(|net| net.new_pair([Owner::Nobody, Owner::Actor]));
        let theirs = ActorConn::new(self, theirs);
        Ok((self.placeholder(Meant::End(ours))?, theirs))
    }

    /// Listens as a simulated peer.
    ///
    /// # Errors
    /// EADDRINUSE for a path where somebody listens.
    pub fn listen(&self, at: &Target) -> io::Result<ActorListener> {
        let id = self.net(|net| {
            let id = net.listen(at)?;
            if let Some(listener) = net.listeners.get_mut(id) {
                listener.owner = Owner::Actor;
            }
            Ok::<_, io::Error>(id)
        })?;
        Ok(ActorListener::new(self, id))
    }

    /// Connects as a simulated peer; [`ActorConn::progress`] says what came of it.
    pub fn connect(&self, to: &Target) -> ActorConn {
        let id = self.net(|net| {
            let id = net.new_connecting(to, Owner::Actor);
            net.knock_first(id);
            id
        });
        ActorConn::new(self, id)
    }

    /// Ends every driver of this process as SIGKILL does: the kernel closes its sockets (FIN, or RST where something was
    /// unread), and what the driver is told from now on has no effect. A process that is started later may have the name again.
    ///
    /// Placeholders that no driver has taken over yet are not closed.
    pub fn kill(&self, name: &str) {
        self.end_process(name, Net::kill);
    }

    /// The same as pulling the plug of a machine: its TCP peers hear nothing at all.
    pub fn vanish(&self, name: &str) {
        self.end_process(name, Net::vanish_place);
    }

    fn end_process(&self, name: &str, end: impl Fn(&mut Net, u32)) {
        self.net(|net| {
            for at in 0..net.places.len() {
                if net.places[at].name == name && !net.places[at].dead.get() {
                    end(net, at as u32);
                }
            }
        });
    }

    /// Takes all spare descriptors from a process, or gives them back: it can neither connect nor accept meanwhile.
    pub fn exhaust_descriptors(&self, name: &str, yes: bool) {
        self.net(|net| {
            for place in net.places.iter().filter(|place| place.name == name) {
                place.out_of_descriptors.set(yes);
            }
        });
    }

    /// What is open.
    pub fn census(&self) -> Census {
        self.net(|net| {
            let is_open = |id: EndId| net.ends.get(id).is_some_and(|end| !end.closed);
            let heard = || net.listeners.iter().filter(|(_, listener)| !listener.silent);
            Census {
                open_ends: net.ends.iter().filter(|(_, end)| !end.closed).count(),
                listeners: heard().count(),
                forgotten: net.ends.iter().filter(|(_, end)| end.closed && !end.peer.is_some_and(is_open)).count(),
                backlog: heard().map(|(_, listener)| listener.backlog.len()).sum(),
            }
        })
    }

    /// A number that all network events so far went into: runs that are the same have the same one.
    pub fn fingerprint(&self) -> u64 {
        self.net(|net| net.fingerprint)
    }

    // For the driver and the actors.

    /// Looks at the network. Nothing in `look` may call anybody else: a scheduler may run another process then, which
    /// would look, too.
    pub(super) fn net<T>(&self, look: impl FnOnce(&mut Net) -> T) -> T {
        look(&mut self.0.net.borrow_mut())
    }

    pub(super) fn clock(&self) -> Rc<VirtualClock> {
        self.0.clock.clone()
    }

    pub(super) fn tick(&self) {
        let tick = self.0.tick.get();
        if tick != 0 {
            self.advance_to(self.now() + tick);
        }
    }

    pub(super) fn look_every(&self) -> u32 {
        self.0.look_every.get()
    }

    pub(super) fn settle_in(&self, name: &str) -> io::Result<(Node, Waker, Random)> {
        let waker = Waker::new()?;
        self.net(|net| {
            let number = net.places.len() as u32;
            let place = Rc::new(Place {
                name: name.to_owned(),
                number,
                waker: RefCell::new(Some(waker.clone())),
                due: Cell::new(false),
                listed: RefCell::new(Vec::new()),
                dead: Cell::new(false),
                out_of_descriptors: Cell::new(false),
                open: Cell::new(0),
            });
            net.places.push(place.clone());
            // Its own numbers, whatever the network draws meanwhile.
            let mut seeds = Random::seeded(self.0.seed ^ (u64::from(number) + 1).wrapping_mul(0xD6E8_FEB8_6659_FD93));
            Ok((Node(place), waker, Random::seeded(seeds.next())))
        })
    }

    pub(super) fn block(&self, pause: &Pause<'_>) {
        let blocker = self.0.blocker.borrow().clone();
        match blocker {
            Some(blocker) => blocker(pause),
            None => pause.skip(),
        }
    }

    pub(super) fn has_own_blocker(&self) -> bool {
        self.0.blocker.borrow().is_some()
    }

    pub(super) fn listener_of(&self, fd: impl AsFd) -> io::Result<ListenerId> {
        match self.meant(fd)? {
            Meant::Listener(id) => Ok(id),
            Meant::End(_) => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        }
    }

    pub(super) fn end_of(&self, fd: impl AsFd) -> io::Result<EndId> {
        match self.meant(fd)? {
            Meant::End(id) => Ok(id),
            Meant::Listener(_) => Err(io::Error::from_raw_os_error(libc::ENOTCONN)),
        }
    }

    /// A placeholder for a connection that began in a driver.
    pub(super) fn placeholder_of(&self, end: EndId) -> io::Result<OwnedFd> {
        self.placeholder(Meant::End(end))
    }

    fn meant(&self, fd: impl AsFd) -> io::Result<Meant> {
        let number = placeholder::number(fd)?;
        self.net(|net| net.placeholders.get(number as usize).copied()).ok_or_else(not_a_socket)
    }

    fn placeholder(&self, meant: Meant) -> io::Result<OwnedFd> {
        let number = self.net(|net| {
            net.placeholders.push(meant);
            net.placeholders.len() - 1
        });
        placeholder::make(number as u64)
    }
}

impl Pause<'_> {
    /// What happens unless there is another blocker: the clock jumps to what happens next in the world, or to `until`. If
    /// nothing is ever going to happen, it really waits for the descriptors, for a while: somebody on another thread may ring.
    pub fn skip(&self) {
        let next = self.world.next_event_at();
        if let Some(time) = next.into_iter().chain(self.until).min() {
            self.world.advance_to(time);
            return;
        }
        let mut fds: Vec<PollFd<'_>> = self.fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let readable = poll(&mut fds, PollTimeout::from(REAL_WAIT_MS));
        if let Some(waker) = &*self.node.0.waker.borrow()
            && readable.is_ok_and(|count| count > 0)
            && !waker.is_pending()
        {
            // A wake whose event was reported before its eventfd was written to.
            waker.drain();
        }
    }
}

impl Node {
    /// The process that the driver belongs to.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Tells apart the drivers of a world, in the order in which they were made.
    pub fn number(&self) -> u32 {
        self.0.number
    }

    /// Whether the network has something for this driver now, its waker was used, or it was killed. Says nothing about
    /// doorbells.
    pub fn has_due(&self) -> bool {
        self.0.due.get() || self.0.waker.borrow().as_ref().is_some_and(Waker::is_pending)
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.0.dead.get()
    }

    /// Sockets that are open in this driver: listeners, connections, watched doorbells.
    pub fn open_sockets(&self) -> usize {
        self.0.open.get()
    }
}

impl Net {
    /// Closes what a driver has, as the kernel does when a process ends.
    pub(super) fn kill(&mut self, place: u32) {
        let (ends, listeners) = self.bury(place);
        for id in listeners {
            self.close_listener(id);
        }
        for id in ends {
            self.close(id, false);
        }
    }

    fn vanish_place(&mut self, place: u32) {
        let (ends, listeners) = self.bury(place);
        for id in listeners {
            if let Some(listener) = self.listeners.get_mut(id) {
                listener.silent = true;
                listener.owner = Owner::Nobody;
                for end in std::mem::take(&mut listener.backlog) {
                    self.vanish(end);
                }
            }
        }
        for id in ends {
            self.vanish(id);
        }
    }

    /// Marks a driver as dead; returns what it has.
    fn bury(&mut self, place: u32) -> (Vec<EndId>, Vec<ListenerId>) {
        let grave = &self.places[place as usize];
        grave.dead.set(true);
        // It stays so: nobody collects it.
        grave.due.set(true);
        let of_place = |owner: Owner| matches!(owner, Owner::Driver(number, _) if number == place);
        let ends = self.ends.iter().filter(|(_, end)| of_place(end.owner)).map(|(id, _)| id).collect();
        let listeners = self.listeners.iter().filter(|(_, l)| of_place(l.owner)).map(|(id, _)| id).collect();
        (ends, listeners)
    }
}

fn not_a_socket() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOTSOCK)
}
